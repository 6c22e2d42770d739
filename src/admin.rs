//! The admin listener: API, health and metrics, for the operator and the command line.
//!
//! It has no authentication of its own and therefore listens on loopback only. A browser on the same machine is a
//! stranger all the same: requests that name another host (DNS rebinding) or come from a page (`Origin`) are refused.

mod api;
mod clock;
mod dead_letters;
mod doctor;
mod invocations;
pub mod invoke;
mod jobs;
mod metrics;
mod queue;
mod schedules;
mod timers;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

pub use api::{FunctionView, Listing, PublishRequest, PublishView, ReloadView, TraceView, TriggerView, VersionView};
pub use clock::{AdvanceRequest, AdvanceView, BusyView, ClockMode, ClockView};
pub use dead_letters::{
    CountView, OutcomesRequest, OutcomesView, PurgeRequest, PurgeStep, RedriveRequest, RedriveStep, RedriveView,
    StepPosition,
};
pub use doctor::FindingView;
pub use invocations::{CancelView, InvocationView};
pub use jobs::{EnqueueRequest, EnqueueView};
pub use queue::{LedgerView, PauseRequest, PauseView};
pub use timers::{TimerRequest, TimerView};
pub use tokens::{NewTokenView, RevokedView, TokenRequest, TokenView};

pub use schedules::{BackfillRequest, BackfillView, InstantView, RunView, ScheduleView};

/// The largest request that the API takes: a message to publish, in base64, and room around it.
const MAX_BODY_BYTES: usize = 12 << 20;

/// The admin listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not on loopback.
    #[error(
        "admin_listen {0} is not a loopback address: the admin API has no authentication, so it only listens on this \
         machine; use 127.0.0.1 and a tunnel or a proxy that authenticates"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on admin_listen {address}: {error}; choose another port in [engine]")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
}

/// The bound listener.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the port. Answers nothing yet.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
        let bind = |error| Error::Bind { address, error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then what is under way.
    pub async fn run(self, engine: Arc<Engine>, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(self.listener, router(engine)).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

fn router(engine: Arc<Engine>) -> Router {
    Router::new()
        .merge(api::routes())
        .merge(invocations::routes())
        .merge(invoke::routes())
        .merge(jobs::routes())
        .merge(timers::routes())
        .merge(queue::routes())
        .merge(clock::routes())
        .merge(dead_letters::routes())
        .merge(metrics::routes())
        .merge(schedules::routes())
        .merge(tokens::routes())
        .merge(doctor::routes())
        .layer(middleware::from_fn_with_state((), only_local))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(engine)
}

/// Refuses what a web page could send.
async fn only_local(State(()): State<()>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") || request.headers().contains_key(header::ORIGIN) {
        let body = "the admin API answers programs on this machine, not web pages\n";
        return (StatusCode::FORBIDDEN, body).into_response();
    }
    next.run(request).await
}
