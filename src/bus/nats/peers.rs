//! What engines of one store say to each other over NATS.
//!
//! They have a subject of their own, that guests can neither publish on nor subscribe to. Whoever else is on the server
//! may: so everything that is said carries a MAC under a key that only the store has. It is not encrypted, as nothing on
//! the bus is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use trigger_core::bus::{BusError, Peers};
use trigger_core::subject::RESERVED;
use trigger_core::{BoxFuture, Message};

use super::super::payload_limit;
use super::NatsBus;

const MAC_BYTES: usize = blake3::OUT_LEN;

/// The engines of one store on one NATS server.
pub struct NatsPeers {
    nats: Arc<NatsBus>,
    subject: Box<str>,
    key: [u8; blake3::KEY_LEN],
    forged: Arc<AtomicU64>,
}

impl NatsPeers {
    /// Those that have this key. They speak on a subject of their own for each topic, which is one token.
    pub fn new(nats: Arc<NatsBus>, topic: &str, key: [u8; blake3::KEY_LEN]) -> Self {
        let name = blake3::Hash::from_bytes(blake3::derive_key("tripline: the subject of engines", &key)).to_hex();
        let subject = format!("{RESERVED}.{}.{topic}", &name[..16]).into();
        Self { nats, subject, key, forged: Arc::default() }
    }
}

fn seal(key: &[u8; blake3::KEY_LEN], said: &[u8]) -> Bytes {
    let mut sealed = BytesMut::with_capacity(MAC_BYTES + said.len());
    sealed.extend_from_slice(blake3::keyed_hash(key, said).as_bytes());
    sealed.extend_from_slice(said);
    sealed.freeze()
}

/// What was sealed with the key; nothing where it was not.
fn open(key: &[u8; blake3::KEY_LEN], mut sealed: Bytes) -> Option<Bytes> {
    if sealed.len() < MAC_BYTES {
        return None;
    }
    let mac: [u8; MAC_BYTES] = sealed.split_to(MAC_BYTES)[..].try_into().ok()?;
    // Hashes are compared in constant time.
    (blake3::keyed_hash(key, &sealed) == mac).then_some(sealed)
}

impl Peers for NatsPeers {
    fn say(&self, said: Bytes) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(async move {
            let (size, limit) = (said.len(), self.max_bytes());
            if size > limit {
                return Err(BusError::TooLarge { size, limit });
            }
            self.nats.connected()?;
            let payload = seal(&self.key, &said);
            self.nats.send(Message { subject: self.subject.clone(), payload, ..Message::default() }).await
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, BusError>> {
        Box::pin(async move {
            let subscription = self.nats.join(&self.subject, None).await?;
            let (key, forged) = (self.key, self.forged.clone());
            let believed = move |message: Message| {
                let said = open(&key, message.payload);
                if said.is_none() && forged.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!("somebody without the store's key speaks on the subject of this store's engines");
                }
                std::future::ready(said)
            };
            Ok(subscription.messages.filter_map(believed).boxed())
        })
    }

    fn max_bytes(&self) -> usize {
        payload_limit(self.nats.client.max_payload()) - MAC_BYTES
    }

    fn degraded(&self) -> Option<String> {
        trigger_core::Bus::degraded(&*self.nats)
    }

    fn forged(&self) -> u64 {
        self.forged.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_with_the_key_is_believed() {
        let key = [7; blake3::KEY_LEN];
        let sealed = seal(&key, b"said");
        assert_eq!(open(&key, sealed.clone()).as_deref(), Some(&b"said"[..]));
        assert_eq!(open(&[8; blake3::KEY_LEN], sealed.clone()), None);
        for index in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[index] ^= 1;
            assert_eq!(open(&key, changed.into()), None);
            assert_eq!(open(&key, sealed.slice(..index)), None);
        }
        assert_eq!(open(&key, seal(&key, b"")).as_deref(), Some(&b""[..]));
    }
}
