//! What guests commit in transactions of their own databases: with what they write, both or neither, and once.
//!
//! Where the engine is killed is chosen by who holds a lock: on the store's file what was committed cannot be taken over,
//! on an outbox what was taken over cannot be removed.

use std::time::Duration;

use http::StatusCode;
use rusqlite::Connection;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::engine::{Engine, Project};
use crate::support::eventually;
use crate::support::postgres::Server;

const FUNCTIONS: &str = r#"
[functions.shop]
module = "sql.wasm"
timeout_seconds = 60
allow = { sql = ["file", "server"], jobs = ["mail"], publish = ["orders.>"] }
[[functions.shop.triggers]]
type = "http"
path = "/shop"

[functions.mail]
module = "steer.wasm"
[[functions.mail.triggers]]
type = "job"
queue = "mail"

[functions.news]
module = "steer.wasm"
[[functions.news.triggers]]
type = "pubsub"
subject = "orders.*"
durable = true
"#;

struct Shop {
    server: Server,
    project: Project,
}

/// Keeps others from changing something until it is dropped.
enum Held {
    File(Connection),
    Server(PgConnection),
}

impl Shop {
    async fn new() -> (Self, Engine) {
        let server = Server::own();
        let engine = format!(
            "[engine.databases.file]\nurl = \"sqlite:shop.db\"\n[engine.databases.server]\nurl = {:?}\n",
            server.url()
        );
        let project = Project::new(&engine, FUNCTIONS);
        project.guest("sql.component.wasm", "sql.wasm");
        project.guest("steer.wat", "steer.wasm");
        let shop = Self { server, project };
        let engine = shop.project.serve().await;
        for database in ["file", "server"] {
            let orders = "CREATE TABLE orders (id BIGINT PRIMARY KEY)";
            let lines = "CREATE TABLE lines (of BIGINT REFERENCES orders DEFERRABLE INITIALLY DEFERRED)";
            assert_eq!(shop.say(&[database, orders, lines]).await, ["0", "0"]);
        }
        (shop, engine)
    }

    async fn say(&self, lines: &[&str]) -> Vec<String> {
        let answer = self.project.post("/shop", lines.join("\n")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.text().lines().map(str::to_owned).collect()
    }

    /// Writes an order, asks for what is to follow it, and then does what the lines say.
    async fn order(&self, database: &str, number: u32, lines: &[&str]) -> String {
        let insert = format!("INSERT INTO orders VALUES ({number})");
        let order = [database, "begin", &insert, "enqueue mail | order", "publish orders.paid | order"];
        self.say(&[&order, lines].concat()).await.pop().unwrap()
    }

    /// A number that a query of a database gives.
    fn look(&self, database: &str, query: &str) -> String {
        if database == "server" {
            return self.server.query(query).unwrap();
        }
        self.file().query_row(query, [], |row| row.get::<_, i64>(0)).unwrap().to_string()
    }

    fn file(&self) -> Connection {
        let connection = Connection::open(self.project.path("shop.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }

    fn orders(&self, database: &str) -> String {
        self.look(database, "SELECT count(*) FROM orders")
    }

    fn rows(&self, database: &str) -> String {
        self.look(database, "SELECT count(*) FROM tripline_outbox")
    }

    /// Nobody else writes in the store.
    fn hold_store(&self) -> Connection {
        let connection = Connection::open(self.project.path(".tripline/state.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection
    }

    /// Nobody else changes the outbox in this database.
    async fn hold_outbox(&self, database: &str) -> Held {
        if database == "file" {
            let connection = self.file();
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            return Held::File(connection);
        }
        let mut connection = PgConnection::connect(self.server.url()).await.unwrap();
        let lock = "BEGIN; LOCK TABLE tripline_outbox IN SHARE MODE";
        sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
        Held::Server(connection)
    }

    /// What the ledger says of a function's events: accepted, and how many of them have not ended.
    fn events(&self, function: &str) -> [i64; 2] {
        let ledger = self.project.json(&["ledger"]);
        let rows = ledger["items"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["drift"] == 0), "{ledger}");
        let Some(row) = rows.iter().find(|row| row["function_name"] == function) else { return [0; 2] };
        let count = |key: &str| row[key].as_i64().unwrap();
        [count("accepted"), count("queued") + count("running")]
    }

    /// Waits until so many jobs and so many messages have come and been worked on.
    async fn done(&self, jobs: i64, messages: i64) {
        let done = async || self.events("mail") == [jobs, 0] && self.events("news") == [messages, 0];
        eventually("what was asked for", done).await;
    }
}

impl Held {
    async fn release(self) {
        match self {
            Held::File(connection) => connection.close().unwrap(),
            Held::Server(connection) => connection.close().await.unwrap(),
        }
    }
}

#[tokio::test]
async fn what_a_transaction_asks_for_is_done_with_it_or_not_at_all() {
    let (shop, _engine) = Shop::new().await;
    let (mut jobs, mut messages) = (0, 0);
    for database in ["file", "server"] {
        assert_eq!(shop.order(database, 1, &["commit with effects"]).await, "committed with effects");
        (jobs, messages) = (jobs + 1, messages + 1);
        shop.done(jobs, messages).await;
        // A commit that is refused takes nothing along, and nothing follows when the attempt succeeds.
        let refused = shop.order(database, 2, &["INSERT INTO lines VALUES (99)", "commit with effects"]).await;
        assert!(refused.starts_with("Constraint: "), "{refused}");
        assert_eq!((&*shop.orders(database), &*shop.rows(database)), ("1", "0"), "{database}");
        // What was committed stays where the attempt fails later; what was asked for later is dropped.
        let lines = ["INSERT INTO orders VALUES (3)", "enqueue mail | order", "commit with effects"];
        let lines = [&[database, "begin"][..], &lines, &["enqueue mail | late", "fail"]].concat();
        let failed = shop.project.post("/shop", lines.join("\n")).await;
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(shop.orders(database), "2");
        // Whatever came of these is there before what comes of this.
        assert_eq!(shop.order(database, 4, &["commit with effects"]).await, "committed with effects");
        (jobs, messages) = (jobs + 2, messages + 1);
        shop.done(jobs, messages).await;
        eventually("an empty outbox", async || shop.rows(database) == "0").await;
    }
    let traces = shop.project.json(&["traces", "--function", "mail"]);
    let job = &traces["items"][0];
    assert!(job["parent"].is_string() || job["depth"] == 1, "it is known what caused it: {job}");
}

#[tokio::test]
async fn what_was_committed_is_done_once_by_an_engine_that_was_killed_before_it_knew() {
    let (shop, engine) = Shop::new().await;
    let held = shop.hold_store();
    for database in ["file", "server"] {
        assert_eq!(shop.order(database, 1, &["commit with effects"]).await, "committed with effects");
    }
    engine.kill();
    drop(held);
    for database in ["file", "server"] {
        assert_eq!((&*shop.orders(database), &*shop.rows(database)), ("1", "1"), "{database}");
    }
    let engine = shop.project.serve().await;
    shop.done(2, 2).await;
    for database in ["file", "server"] {
        eventually("an empty outbox", async || shop.rows(database) == "0").await;
    }

    // Killed behind the writes and before the commit: neither.
    let held = shop.hold_outbox("server").await;
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO tripline%'";
    let order = "server\nbegin\nINSERT INTO orders VALUES (2)\nenqueue mail | order\ncommit with effects";
    let killed = async {
        eventually("the commit", async || shop.look("server", waits) == "1").await;
        engine.kill();
    };
    let (answer, ()) = tokio::join!(shop.project.try_post("/shop", order), killed);
    assert!(answer.is_none(), "it was not told that it was done");
    held.release().await;
    let _engine = shop.project.serve().await;
    assert_eq!(shop.order("server", 2, &["commit with effects"]).await, "committed with effects");
    shop.done(3, 3).await;
    assert_eq!(shop.orders("server"), "2");
}

#[tokio::test]
async fn what_was_taken_over_is_not_done_again_by_an_engine_that_was_killed_before_it_said_so() {
    let (shop, engine) = Shop::new().await;
    let held = shop.hold_store();
    let mut outboxes = Vec::new();
    for database in ["file", "server"] {
        assert_eq!(shop.order(database, 1, &["commit with effects"]).await, "committed with effects");
        outboxes.push(shop.hold_outbox(database).await);
    }
    drop(held);
    shop.done(2, 2).await;
    // A message may be published twice where the engine dies before it knows that the bus has it: not this time.
    eventually("the messages", async || shop.project.metric("tripline_outbox_depth ", &[]).await == 0).await;
    engine.kill();
    for outbox in outboxes {
        outbox.release().await;
    }
    for database in ["file", "server"] {
        assert_eq!(shop.rows(database), "1", "{database}");
    }
    let _engine = shop.project.serve().await;
    for database in ["file", "server"] {
        eventually("an empty outbox", async || shop.rows(database) == "0").await;
        assert_eq!(shop.order(database, 2, &["commit with effects"]).await, "committed with effects");
    }
    shop.done(4, 4).await;
}

#[tokio::test]
async fn what_the_engine_did_not_write_is_never_run() {
    let (shop, engine) = Shop::new().await;
    let held = shop.hold_store();
    for database in ["file", "server"] {
        assert_eq!(shop.order(database, 1, &["commit with effects"]).await, "committed with effects");
    }
    // Copies of what it wrote: as another row, with another bit, as another engine's.
    shop.server
        .query(
            "INSERT INTO tripline_outbox
             SELECT engine, gen_random_uuid(), sealed FROM tripline_outbox
             UNION ALL SELECT engine, gen_random_uuid(), set_bit(sealed, 400, 1 - get_bit(sealed, 400))
                FROM tripline_outbox
             UNION ALL SELECT 'other', id, sealed FROM tripline_outbox",
        )
        .unwrap();
    let file = shop.file();
    let real = "SELECT engine, id, sealed FROM tripline_outbox";
    let (engine_name, id, sealed): (String, Vec<u8>, Vec<u8>) =
        file.query_row(real, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let mut changed = sealed.clone();
    changed[50] ^= 1;
    let another = || Uuid::now_v7().into_bytes().to_vec();
    for row in
        [(&engine_name, another(), &sealed), (&engine_name, another(), &changed), (&"other".to_owned(), id, &sealed)]
    {
        file.execute("INSERT INTO tripline_outbox VALUES (?1, ?2, ?3)", row).unwrap();
    }
    drop((held, file));
    for database in ["file", "server"] {
        assert_eq!(shop.order(database, 2, &["commit with effects"]).await, "committed with effects");
    }
    shop.done(4, 4).await;
    let left = async |database: &str| {
        let part = format!("database=\"{database}\"");
        let refused = shop.project.metric("tripline_database_outbox_refused", &[&part]).await;
        refused == 2 && shop.rows(database) == "3"
    };
    for database in ["file", "server"] {
        eventually("those that are left", async || left(database).await).await;
    }
    assert!(engine.log().contains("no engine of this store has written them"), "{}", engine.log());
    engine.kill();
    let _engine = shop.project.serve().await;
    for database in ["file", "server"] {
        eventually("those that are left", async || left(database).await).await;
    }
    shop.done(4, 4).await;
}
