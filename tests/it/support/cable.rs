//! A connection that can be cut, and one that goes dead without anybody being told.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A port that leads to another one, as long as nobody cuts it.
pub struct Cable {
    pub port: u16,
    lines: Arc<Mutex<Lines>>,
    dead: watch::Sender<bool>,
    _accepts: JoinSet<()>,
}

#[derive(Default)]
struct Lines {
    cut: bool,
    lines: JoinSet<()>,
}

impl Cable {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let lines: Arc<Mutex<Lines>> = Arc::default();
        let (all, mut accepts) = (lines.clone(), JoinSet::new());
        let (dead, seen) = watch::channel(false);
        accepts.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mut lines, seen) = (all.lock(), seen.clone());
                if !lines.cut {
                    lines.lines.spawn(async move {
                        let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                        let ((near, to_near), (far, to_far)) = (near.into_split(), far.into_split());
                        tokio::select! {
                            () = carry(near, to_far, seen.clone()) => {}
                            () = carry(far, to_near, seen) => {}
                        }
                    });
                }
            }
        });
        Self { port: own, lines, dead, _accepts: accepts }
    }

    /// Ends all connections, and every new one.
    pub fn cut(&self) {
        let mut lines = self.lines.lock();
        lines.cut = true;
        lines.lines.abort_all();
    }

    /// Carries nothing more, on old connections and on new ones, and ends none: neither side hears of it.
    pub fn go_dead(&self) {
        self.dead.send_replace(true);
    }

    pub fn mend(&self) {
        self.lines.lock().cut = false;
        self.dead.send_replace(false);
    }
}

/// Carries what comes until either side ends.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut dead: watch::Receiver<bool>) {
    let mut some = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut some).await.unwrap_or_default();
        let alive = dead.wait_for(|dead| !dead).await.is_ok();
        if length == 0 || !alive || to.write_all(&some[..length]).await.is_err() {
            return;
        }
    }
}
