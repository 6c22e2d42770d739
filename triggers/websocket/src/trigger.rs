//! WebSocket as a kind of trigger: a path that is open while its trigger runs, and sockets that outlive a reload.

use std::sync::Arc;

use trigger_auth::{Guard, Limiter};
use trigger_core::upgrade::{Announced, Upgrades};
use trigger_core::{BindError, Binding, Kind, Problems, Trigger, TriggerContext, TriggerError, TriggerKind};

use crate::config::Config;
use crate::endpoint::Serving;
use crate::handshake::Door;
use crate::hub::{Claim, Hub};

/// The kind `websocket`.
pub struct Websocket {
    hub: Arc<Hub>,
    listener: Arc<dyn Upgrades>,
}

impl Websocket {
    /// A kind whose sockets belong to this hub, and come in by this listener.
    pub fn new(hub: Arc<Hub>, listener: Arc<dyn Upgrades>) -> Self {
        Self { hub, listener }
    }
}

impl TriggerKind for Websocket {
    const KIND: Kind = Kind::Websocket;
    type Config = Config;
    type Trigger = Bound;

    fn check(&self, config: &Config, problems: &mut Problems) {
        if let Err((message, help)) = self.listener.check(&config.path) {
            problems.add("path", message, help);
        }
        config.check(problems);
    }

    fn conflict(&self, one: &Config, other: &Config) -> Option<String> {
        self.listener.excludes(&one.path, &other.path).then(|| match one.path == other.path {
            true => format!("both serve {}", one.path),
            false => format!("{} and {} match the same paths", one.path, other.path),
        })
    }

    fn describe(&self, config: &Config) -> String {
        config.path.clone()
    }

    async fn bind(&self, config: Config, binding: Arc<Binding>) -> Result<Bound, BindError> {
        let announced = self
            .listener
            .announce(&config.path)
            .map_err(|(message, help)| BindError(format!("{}: {message}; {help}", binding.path())))?;
        let claim = self.hub.claim(binding, &config.path);
        Ok(Bound { config, announced, claim })
    }
}

/// A path that waits to be opened.
pub struct Bound {
    config: Config,
    announced: Box<dyn Announced>,
    claim: Claim,
}

impl Trigger for Bound {
    /// The path is open from the first poll on, so an old trigger that is asked to stop after this one was polled hands
    /// over without a gap. The last trigger of an endpoint waits until each of its sockets has been answered and closed.
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        let Bound { config, announced, claim } = self;
        let (shutdown, endpoint) = (cx.shutdown.clone(), claim.endpoint.clone());
        let guard = Guard::new(&config.auth, &cx).map_err(TriggerError)?;
        let limiter = config.rate_limit.as_ref().map(|limit| Limiter::new(limit, &cx));
        endpoint.serve(Serving { config, guard, limiter, cx });
        let open = announced.open(Arc::new(Door(endpoint.clone())));
        shutdown.cancelled().await;
        drop(open);
        drop(claim);
        if endpoint.tasks.is_closed() {
            endpoint.tasks.wait().await;
        }
        Ok(())
    }
}
