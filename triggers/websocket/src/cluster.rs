//! Speaks and listens where engines share their sockets.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use trigger_core::Peers;
use trigger_core::bus::BusError;

use crate::hub::Hub;
use crate::peers::{BEAT, Cluster};

/// The pause before something is said, or listened to, again.
const AGAIN: Duration = Duration::from_millis(100);

impl Hub {
    /// Shares the sockets with the other engines, until it is told to stop. To be called before the first trigger is
    /// bound, once.
    pub fn share(
        self: &Arc<Self>,
        peers: Arc<dyn Peers>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let cluster = self.cluster.get_or_init(|| Arc::new(Cluster::new(peers))).clone();
        let hub = self.clone();
        async move {
            tokio::join!(listen(&hub, &cluster, &stop), speak(&cluster, &stop));
        }
    }
}

async fn listen(hub: &Hub, cluster: &Cluster, stop: &CancellationToken) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said: Option<BoxStream<'static, bytes::Bytes>> = None;
    loop {
        let Some(saying) = &mut said else {
            match cluster.peers.listen().await {
                Ok(saying) => said = Some(saying),
                Err(error) => {
                    tracing::warn!("sockets are not shared with other engines yet: {error}");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(BEAT) => {}
                    }
                }
            }
            continue;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = beat.tick() => hub.beat(cluster, cluster.peers.degraded().is_some()),
            heard = saying.next() => match heard {
                Some(bytes) => hub.hear(cluster, &bytes),
                None => said = None,
            },
        }
    }
}

/// Says what waits, in its order. What the bus does not take now is said when it is back; what it never will is not.
async fn speak(cluster: &Cluster, stop: &CancellationToken) {
    loop {
        let next = cluster.lock().next();
        let Some(bytes) = next else {
            tokio::select! {
                biased;
                () = cluster.wake.notified() => continue,
                () = stop.cancelled() => return,
            }
        };
        loop {
            match cluster.peers.say(bytes.clone()).await {
                Ok(()) => break,
                Err(BusError::Unavailable(_)) => tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                },
                Err(error) => {
                    tracing::warn!("other engines are not told of something that was done to sockets: {error}");
                    cluster.lock().count_unsaid();
                    break;
                }
            }
        }
    }
}
