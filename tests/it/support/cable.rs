//! A connection that can be cut.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A port that leads to another one, as long as nobody cuts it.
pub struct Cable {
    pub port: u16,
    lines: Arc<Mutex<Lines>>,
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
        accepts.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut lines = all.lock();
                if !lines.cut {
                    lines.lines.spawn(async move {
                        let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                        let _either_side_ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    });
                }
            }
        });
        Self { port: own, lines, _accepts: accepts }
    }

    /// Ends all connections, and every new one.
    pub fn cut(&self) {
        let mut lines = self.lines.lock();
        lines.cut = true;
        lines.lines.abort_all();
    }

    pub fn mend(&self) {
        self.lines.lock().cut = false;
    }
}
