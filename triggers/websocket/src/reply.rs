//! What an answer of the engine means to a socket.

use std::sync::Arc;

use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use trigger_core::{Answer, Response, Shed};

use crate::config::OnFailure;
use crate::frame::Frame;
use crate::socket::Close;

/// What follows from an answer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// This is sent back.
    Frame(Arc<Frame>),
    /// Nothing: the next message has its turn.
    Nothing,
    /// The socket is closed.
    Close(Close),
}

/// The reply to a message that was text, or was not.
pub(crate) fn of(answer: Answer, text: bool, on_failure: OnFailure) -> Reply {
    let close = match answer {
        Answer::Ok(Response { body, .. }) if body.is_empty() => return Reply::Nothing,
        Answer::Ok(Response { body, .. }) => {
            let message = match text.then(|| Utf8Bytes::try_from(body.clone())) {
                Some(Ok(text)) => Message::Text(text),
                _ => Message::Binary(body),
            };
            return Reply::Frame(Frame::plain(message, None));
        }
        // The engine stops; that has nothing to do with this message.
        Answer::Cancelled | Answer::Shed { reason: Shed::ShuttingDown, .. } => {
            return Reply::Close(Close::now(CloseCode::Away, "the engine is shutting down"));
        }
        Answer::Shed { reason: Shed::Forbidden, .. } => Close::now(CloseCode::Policy, Shed::Forbidden.detail()),
        Answer::Shed { reason: Shed::TooLarge, .. } => Close::now(CloseCode::Size, Shed::TooLarge.detail()),
        Answer::Shed { reason, .. } => Close::now(CloseCode::Again, reason.detail()),
        Answer::Skipped(reason) => Close::now(CloseCode::Again, reason.detail()),
        // What the function said of its failure is in its trace: a browser's page need not know.
        Answer::Failed(_) | Answer::Retry { .. } | Answer::Kept(_) | Answer::Dead { .. } => {
            Close::now(CloseCode::Error, "the function failed")
        }
    };
    match on_failure {
        OnFailure::Close => Reply::Close(close),
        OnFailure::Ignore => Reply::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use trigger_core::{Failure, FailureCode, SkipReason};

    use super::*;

    fn ok(body: &'static [u8]) -> Answer {
        Answer::Ok(Response::from(Bytes::from_static(body)))
    }

    fn sent(answer: Answer, text: bool) -> Option<Message> {
        match of(answer, text, OnFailure::Close) {
            Reply::Frame(frame) => frame.message(false),
            _ => None,
        }
    }

    #[test]
    fn an_answer_is_sent_back_as_what_it_answers_where_it_can_be() {
        assert_eq!(sent(ok("é".as_bytes()), true), Some(Message::text("é")));
        assert_eq!(sent(ok(b"\xff"), true), Some(Message::binary(&b"\xff"[..])));
        assert_eq!(sent(ok(b"e"), false), Some(Message::binary(&b"e"[..])));
        assert_eq!(sent(ok(b""), true), None);
    }

    #[test]
    fn every_other_answer_has_its_close_code() {
        let shed = |reason| Answer::Shed { reason, retry_after: Duration::ZERO };
        for (answer, code, ignored) in [
            (Answer::Failed(Failure::new(FailureCode::Trap, "secret")), 1011, true),
            (shed(Shed::Overload), 1013, true),
            (shed(Shed::Forbidden), 1008, true),
            (shed(Shed::TooLarge), 1009, true),
            (Answer::Skipped(SkipReason::Disabled), 1013, true),
            (shed(Shed::ShuttingDown), 1001, false),
            (Answer::Cancelled, 1001, false),
        ] {
            let Reply::Close(close) = of(answer.clone(), true, OnFailure::Close) else { panic!("{answer:?}") };
            assert_eq!(close.code, code, "{answer:?}");
            assert!(!close.reason.contains("secret"));
            let reply = of(answer.clone(), true, OnFailure::Ignore);
            assert_eq!(matches!(reply, Reply::Nothing), ignored, "{answer:?}");
        }
    }
}
