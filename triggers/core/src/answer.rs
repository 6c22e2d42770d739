//! How an attempt went wrong, and what an adapter tells its source.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every value, in order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word used in logs, SQL, metrics and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// The value whose word this is.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

words! {
    /// How an attempt went wrong. The words are stable: people write alerts and retry rules on them.
    FailureCode {
        /// The attempt ran past its deadline.
        Timeout = "timeout",
        /// The guest asked for more memory, tables or instances than its definition grants.
        Memory = "memory",
        /// The guest used up its fuel.
        Fuel = "fuel",
        /// The guest trapped (unreachable, out of bounds, stack overflow, …).
        Trap = "trap",
        /// The guest said that it failed.
        GuestError = "guest_error",
        /// What the guest returned is over its limit or not what its interface promises.
        BadOutput = "bad_output",
        /// The payload is not what the trigger's schema asks for.
        BadInput = "bad_input",
        /// The payload is over what the definition hands to the guest.
        InputTooLarge = "input_too_large",
        /// The module imports something that is not offered.
        ImportDenied = "import_denied",
        /// The guest used a capability that its definition does not grant.
        Denied = "denied",
        /// The engine itself could not run the guest.
        HostError = "host_error",
        /// The attempt was cut by shutdown or by its caller; it is not counted.
        Cancelled = "cancelled",
    }
}

words! {
    /// Why an invocation was given up on.
    DeadReason {
        /// Every attempt the definition allows has failed.
        RetriesExhausted = "retries_exhausted",
        /// The next attempt would begin after the event's maximum age.
        AgeExceeded = "age_exceeded",
        /// The failure says that trying again is pointless.
        Permanent = "permanent",
        /// The guest trapped and its definition does not retry traps.
        TrapPoison = "trap_poison",
        /// The guest timed out and its definition does not retry timeouts.
        Timeout = "timeout",
        /// The guest ran out of memory and its definition does not retry that.
        Memory = "memory",
        /// A chain of functions causing events went over the depth limit.
        DepthExceeded = "depth_exceeded",
        /// No version exists that could run it.
        Incompatible = "incompatible",
    }
}

words! {
    /// Why an event was not run although nothing was wrong with the engine.
    SkipReason {
        /// The function is disabled or gone.
        Disabled = "disabled",
        /// The same event was accepted before.
        Duplicate = "duplicate",
        /// As many events of its ordering key as may be live were live.
        Overlap = "overlap",
        /// A schedule's moment passed while no engine was there, and its trigger does not catch up that far.
        Missed = "missed",
        /// Its trigger was paused.
        Paused = "paused",
        /// Its trigger's filter does not match it.
        Filtered = "filtered",
    }
}

words! {
    /// Why an event was turned away.
    Shed {
        /// Every slot is taken and the wait for one is full or was too long.
        Overload = "overload",
        /// Its function fails again and again, and is left alone for a while.
        CircuitOpen = "circuit_open",
        /// The engine is draining.
        ShuttingDown = "shutting_down",
        /// The store cannot take the event.
        StoreUnavailable = "store_unavailable",
        /// As many events of its trigger wait as may.
        Backlog = "backlog",
        /// The payload is not what the trigger's schema asks for.
        BadInput = "bad_input",
        /// The event is larger than the engine takes.
        TooLarge = "too_large",
        /// The caller did not prove who it is.
        Unauthenticated = "unauthenticated",
        /// Who the caller is cannot be told now: the keys of its issuer are not to be had.
        KeysUnavailable = "keys_unavailable",
        /// The caller is not one that may.
        Forbidden = "forbidden",
        /// Its caller came more often than it may.
        RateLimited = "rate_limited",
        /// The client library or server dropped messages because the subscriber was slow.
        SlowConsumer = "slow_consumer",
        /// Its connection was closed before its turn came.
        Closed = "closed",
        /// It is not what its protocol says that it should be.
        Malformed = "malformed",
    }
}

impl SkipReason {
    /// What a caller is told.
    pub fn detail(self) -> &'static str {
        match self {
            SkipReason::Disabled => "the function is disabled",
            SkipReason::Duplicate => "the same event was accepted before",
            SkipReason::Overlap => "as many events of its ordering key as may be queued or running are",
            SkipReason::Missed => "its moment has passed",
            SkipReason::Paused => "its trigger is paused",
            SkipReason::Filtered => "its trigger's filter does not match it",
        }
    }

    /// The status of HTTP that says so, also where another protocol borrows its numbers.
    pub fn status(self) -> u16 {
        match self {
            SkipReason::Disabled | SkipReason::Missed | SkipReason::Paused => 503,
            SkipReason::Duplicate | SkipReason::Overlap => 409,
            SkipReason::Filtered => 422,
        }
    }

    /// When the same event may fare better.
    pub fn retry_after(self) -> Option<Duration> {
        (self.status() == 503).then_some(Duration::from_secs(60))
    }
}

impl Shed {
    /// What a caller is told, where nothing more is known.
    pub fn detail(self) -> &'static str {
        match self {
            Shed::Overload => "every slot of the function is taken and the wait for one is full or was too long",
            Shed::CircuitOpen => "the function fails again and again, and is not tried for a while",
            Shed::ShuttingDown => "the engine is shutting down",
            Shed::StoreUnavailable => "the engine's store cannot take the event",
            Shed::Backlog => "as many events of the trigger wait as may",
            Shed::BadInput => "the payload is not what the trigger's schema asks for",
            Shed::TooLarge => "the event is larger than the engine takes",
            Shed::Unauthenticated => "the caller did not prove who it is",
            Shed::KeysUnavailable => "the keys that callers' tokens are signed with cannot be had now",
            Shed::Forbidden => "the caller may not run the function",
            Shed::RateLimited => "more requests than may come",
            Shed::SlowConsumer => "events arrive faster than they are taken",
            Shed::Closed => "its connection was closed before its turn came",
            Shed::Malformed => "it is not what its protocol says that it should be",
        }
    }

    /// The status of HTTP that says so, also where another protocol borrows its numbers.
    pub fn status(self) -> u16 {
        match self {
            Shed::Malformed => 400,
            Shed::TooLarge => 413,
            Shed::BadInput => 422,
            Shed::Unauthenticated => 401,
            Shed::Forbidden => 403,
            Shed::Backlog | Shed::RateLimited => 429,
            Shed::Overload
            | Shed::CircuitOpen
            | Shed::ShuttingDown
            | Shed::StoreUnavailable
            | Shed::KeysUnavailable
            | Shed::SlowConsumer
            | Shed::Closed => 503,
        }
    }

    /// Whether the same event may fare better later.
    pub fn retryable(self) -> bool {
        matches!(self.status(), 429 | 503)
    }
}

/// How one attempt went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// The stable code.
    pub code: FailureCode,
    /// For people; bounded in length by whoever creates it.
    pub message: Cow<'static, str>,
    /// Whether another attempt may go better.
    pub retryable: bool,
    /// The earliest moment, from now, at which another attempt is welcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure whose fate follows from its code: `guest_error`, `timeout`, `memory`, `trap`, `fuel` and
    /// `host_error` may go better next time, the others cannot.
    pub fn new(code: FailureCode, message: impl Into<Cow<'static, str>>) -> Self {
        use FailureCode::{BadInput, BadOutput, Denied, ImportDenied, InputTooLarge};
        let retryable = !matches!(code, ImportDenied | Denied | BadInput | BadOutput | InputTooLarge);
        Self { code, message: message.into(), retryable, retry_after: None }
    }

    /// The same failure, never to be tried again.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.retryable = false;
        self
    }

    /// The same failure, welcome again after `delay`.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.retryable = true;
        self.retry_after = Some(delay);
        self
    }
}

/// What a guest returned.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The bytes of the answer.
    pub body: Bytes,
    /// Status and headers, when the guest chose them.
    pub http: Option<Box<HttpParts>>,
}

/// The parts of an HTTP response beside its body.
#[derive(Clone, Debug)]
pub struct HttpParts {
    /// The status code.
    pub status: StatusCode,
    /// The response's headers.
    pub headers: HeaderMap,
}

impl From<Bytes> for Response {
    fn from(body: Bytes) -> Self {
        Self { body, http: None }
    }
}

/// What an adapter tells its source about one event.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The function ran.
    Ok(Response),
    /// A waiting caller is told of the failure; nothing is retried behind its back.
    Failed(Failure),
    /// The source is asked to deliver the event again after this delay (only for [`Custody::Source`]).
    ///
    /// [`Custody::Source`]: crate::Custody::Source
    Retry {
        /// How long the source should wait.
        after: Duration,
        /// What went wrong this time.
        failure: Failure,
    },
    /// The attempt failed and the engine keeps the event as a row until its next attempt.
    Kept(Failure),
    /// The invocation was given up on; its dead letter is committed.
    Dead {
        /// Why.
        reason: DeadReason,
        /// The last failure.
        failure: Failure,
    },
    /// The event needed no run.
    Skipped(SkipReason),
    /// The event was turned away; trying again after the delay may go better.
    Shed {
        /// Why.
        reason: Shed,
        /// A hint for the source.
        retry_after: Duration,
    },
    /// The attempt was cut by shutdown before it ended; the source still holds the event.
    Cancelled,
}
