//! Functions written in Rust, behind the same contract as guests: for programs that embed the engine, and for tests.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use trigger_core::{BoxFuture, Failure, FailureCode, InvocationContext, Progress};

use super::{Abi, Attempt, Executor, Inspection, ModuleError};
use crate::functions::Version;

/// What is called for every attempt.
type Handler =
    Box<dyn Fn(&InvocationContext, Option<watch::Sender<Progress>>) -> BoxFuture<'static, Attempt> + Send + Sync>;

/// Makes every attempt by calling one handler. Which function is meant, the invocation's binding says.
pub struct NativeExecutor {
    handler: Handler,
}

impl NativeExecutor {
    /// An executor that calls `handler`.
    pub fn new<F>(handler: F) -> Self
    where
        F: Fn(&InvocationContext) -> BoxFuture<'static, Attempt> + Send + Sync + 'static,
    {
        Self::telling(move |invocation, _| handler(invocation))
    }

    /// An executor whose `handler` is given what it may tell its progress by, where somebody wants to know.
    pub fn telling<F>(handler: F) -> Self
    where
        F: Fn(&InvocationContext, Option<watch::Sender<Progress>>) -> BoxFuture<'static, Attempt>
            + Send
            + Sync
            + 'static,
    {
        Self { handler: Box::new(handler) }
    }
}

impl Executor for NativeExecutor {
    /// Native functions have no module: whatever bytes stand for one are taken.
    fn inspect(&self, _module: &[u8]) -> Result<Inspection, ModuleError> {
        Ok(Inspection { abi: Abi::Command, imports: Vec::new() })
    }

    fn prepare<'a>(&'a self, _version: &'a Arc<Version>) -> BoxFuture<'a, Result<(), ModuleError>> {
        Box::pin(async { Ok(()) })
    }

    fn attempt<'a>(
        &'a self,
        version: &'a Arc<Version>,
        invocation: &'a InvocationContext,
        deadline: Instant,
        progress: Option<watch::Sender<Progress>>,
    ) -> BoxFuture<'a, Attempt> {
        Box::pin(async move {
            match tokio::time::timeout_at(deadline.into(), (self.handler)(invocation, progress)).await {
                Ok(attempt) => attempt,
                Err(_) => Attempt::failed(Failure::new(
                    FailureCode::Timeout,
                    format!("the function ran longer than its {} s", version.definition.timeout_seconds),
                )),
            }
        })
    }
}
