//! One suite on a file and on a server, and what only one of them has.

use tempfile::TempDir;

use super::*;
use crate::store::postgres::tests::server::Server;

/// A database of each kind, and a table's name that nobody else has.
struct Both {
    directory: TempDir,
    server: Arc<Server>,
    databases: Databases,
    table: String,
}

fn settings(place: Place) -> Settings {
    let bounds = Bounds { max_rows: 3, max_bytes: 1000 };
    Settings { place, read_only: false, max_connections: 2, timeout: Duration::from_secs(5), bounds }
}

fn both(change: impl Fn(&mut Settings)) -> Both {
    let (directory, server) = (tempfile::tempdir().unwrap(), Server::shared());
    let places = [
        ("file", Place::Sqlite(directory.path().join("shop.db"))),
        ("server", Place::Postgres(Secret::new(server.url()))),
    ];
    let settings = places.map(|(name, place)| {
        let mut settings = settings(place);
        change(&mut settings);
        (name.to_owned(), settings)
    });
    let databases = Databases::new(&settings.into());
    Both { directory, server, databases, table: format!("t_{}", uuid::Uuid::now_v7().simple()) }
}

impl Both {
    fn each(&self) -> impl Iterator<Item = (&str, Arc<dyn Database>)> {
        self.databases.names().map(|name| (name, self.databases.get(name).unwrap()))
    }

    /// A statement of the dialect: `?` is the table, `:n` parameter n.
    fn say(&self, name: &str, statement: &str) -> String {
        let (bytes, sign) = if name == "file" { ("BLOB", "?") } else { ("BYTEA", "$") };
        statement.replace('?', &self.table).replace(':', sign).replace("BYTES", bytes)
    }

    async fn make(&self) {
        for (name, database) in self.each() {
            let made = self.say(name, "CREATE TABLE ? (id BIGINT PRIMARY KEY, name TEXT NOT NULL, data BYTES)");
            database.execute(made, Vec::new()).await.unwrap();
        }
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn row(id: i64, name: &str) -> Vec<Value> {
    vec![Value::Integer(id), text(name)]
}

#[tokio::test]
async fn values_go_in_bound_and_come_back_as_they_were() {
    let both = both(|_| {});
    both.make().await;
    for (name, database) in both.each() {
        let insert = both.say(name, "INSERT INTO ? (id, name, data) VALUES (:1, :2, :3)");
        let hostile = "'; DROP TABLE students; --\u{0}é".replace('\0', "");
        for (id, data) in [(1, Value::Bytes(vec![0, 255])), (2, Value::Null)] {
            let values = vec![Value::Integer(id), text(&hostile), data];
            assert_eq!(database.execute(insert.clone(), values).await, Ok(1), "{name}");
        }
        let rows =
            database.query(both.say(name, "SELECT id, name, data FROM ? ORDER BY id"), Vec::new()).await.unwrap();
        assert_eq!(rows.columns, ["id", "name", "data"]);
        assert_eq!(rows.rows[0], [Value::Integer(1), text(&hostile), Value::Bytes(vec![0, 255])], "{name}");
        assert_eq!(rows.rows[1][2], Value::Null);
        let real = database
            .query(both.say(name, "SELECT CAST(1.5 AS DOUBLE PRECISION), CAST(:1 AS TEXT)"), vec![text("x")])
            .await
            .unwrap();
        assert_eq!(real.rows, [[Value::Real(1.5), text("x")]]);
    }
}

#[tokio::test]
async fn every_refusal_says_which_kind_it_is() {
    let both = both(|_| {});
    both.make().await;
    for (name, database) in both.each() {
        let insert = both.say(name, "INSERT INTO ? (id, name) VALUES (:1, :2)");
        database.execute(insert.clone(), row(1, "a")).await.unwrap();
        let again = database.execute(insert.clone(), row(1, "b")).await.unwrap_err();
        assert!(matches!(again, Error::Constraint(..)), "{name}: {again}");
        for wrong in ["SELEC 1", "SELECT nothing_like_that", "SELECT 1; SELECT 2", "SELECT :1"] {
            let error = database.query(both.say(name, wrong), Vec::new()).await.unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{name}: {wrong}: {error}");
        }
        // Whatever went wrong before, a connection is as good as new.
        for denied in ["BEGIN", "COMMIT", "/* x */ ROLLBACK", "SAVEPOINT a"] {
            let error = database.execute(denied.to_owned(), Vec::new()).await.unwrap_err();
            assert!(matches!(error, Error::Denied(_)), "{name}: {denied}: {error}");
        }
        assert_eq!(database.execute(insert, row(2, "b")).await, Ok(1));
    }
}

#[tokio::test]
async fn rows_and_bytes_are_bounded_while_they_come() {
    let both = both(|_| {});
    both.make().await;
    for (name, database) in both.each() {
        let insert = both.say(name, "INSERT INTO ? (id, name) VALUES (:1, :2)");
        for id in 1..=4 {
            database.execute(insert.clone(), row(id, &"x".repeat(300))).await.unwrap();
        }
        let select = |rows: i64| database.query(both.say(name, &format!("SELECT * FROM ? WHERE id <= {rows}")), vec![]);
        assert_eq!(select(3).await.unwrap().rows.len(), 3, "{name}");
        let error = select(4).await.unwrap_err();
        assert!(matches!(&error, Error::TooLarge(why) if why.contains("more than 3 rows")), "{name}: {error}");
        let wide = both.say(name, "SELECT name || name || name || name FROM ? WHERE id = 1");
        let error = database.query(wide, vec![]).await.unwrap_err();
        assert!(matches!(&error, Error::TooLarge(why) if why.contains("1000 bytes")), "{name}: {error}");
        assert_eq!(select(1).await.unwrap().rows.len(), 1);
    }
}

#[tokio::test]
async fn a_transaction_is_seen_when_it_is_committed_and_gone_when_it_is_dropped() {
    let both = both(|_| {});
    both.make().await;
    for (name, database) in both.each() {
        let insert = both.say(name, "INSERT INTO ? (id, name) VALUES (:1, :2)");
        let count = || async {
            database.query(both.say(name, "SELECT count(*) FROM ?"), vec![]).await.unwrap().rows[0][0].clone()
        };
        let mut dropped = database.begin().await.unwrap();
        dropped.execute(insert.clone(), row(1, "a")).await.unwrap();
        assert_eq!(count().await, Value::Integer(0), "{name}");
        drop(dropped);
        let mut committed = database.begin().await.unwrap();
        committed.execute(insert.clone(), row(1, "a")).await.unwrap();
        let seen = committed.query(both.say(name, "SELECT id, name FROM ?"), vec![]).await.unwrap();
        assert_eq!(seen.rows, [row(1, "a")]);
        committed.commit().await.unwrap();
        assert_eq!(count().await, Value::Integer(1), "{name}");
        // Nothing holds a connection: there are two.
        for _ in 0..4 {
            drop(database.begin().await.unwrap());
        }
    }
}

#[tokio::test]
async fn nothing_can_be_changed_where_that_is_not_allowed() {
    let writable = both(|_| {});
    writable.make().await;
    let places = [
        ("file", Place::Sqlite(writable.directory.path().join("shop.db"))),
        ("server", Place::Postgres(Secret::new(writable.server.url()))),
    ];
    let settings = places.map(|(name, place)| (name.to_owned(), Settings { read_only: true, ..settings(place) }));
    let read_only = Databases::new(&settings.into());
    for name in ["file", "server"] {
        let database = read_only.get(name).unwrap();
        let insert = writable.say(name, "INSERT INTO ? (id, name) VALUES (:1, :2)");
        let error = database.execute(insert.clone(), row(1, "a")).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{name}: {error}");
        let mut transaction = database.begin().await.unwrap();
        assert!(transaction.execute(insert.clone(), row(1, "a")).await.is_err(), "{name}");
        drop(transaction);
        let rows = database.query(writable.say(name, "SELECT count(*) FROM ?"), vec![]).await.unwrap();
        assert_eq!(rows.rows[0][0], Value::Integer(0), "{name}");
    }
    let server = read_only.get("server").unwrap();
    for around in [
        "DO $$ BEGIN SET TRANSACTION READ WRITE; CREATE TABLE nobody_may (x int); END $$",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
    ] {
        let _ = server.execute(around.to_owned(), vec![]).await;
        let insert = writable.say("server", "INSERT INTO ? (id, name) VALUES (:1, :2)");
        assert!(matches!(server.execute(insert, row(1, "a")).await, Err(Error::Denied(_))), "{around}");
    }
}

#[tokio::test]
async fn a_guest_reaches_no_other_file_and_leaves_nothing_in_a_connection() {
    let both = both(|settings| settings.max_connections = 1);
    let file = both.databases.get("file").unwrap();
    let elsewhere = both.directory.path().join("elsewhere.db");
    let (attach, copy) = ("ATTACH DATABASE 'PATH' AS other", "VACUUM INTO 'PATH'");
    let [attach, copy] = [attach, copy].map(|statement| statement.replace("PATH", elsewhere.to_str().unwrap()));
    for denied in [
        &*attach,
        "CREATE TEMP TABLE mine (x)",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "SELECT load_extension('/tmp/x.so')",
        "CREATE VIRTUAL TABLE v USING fts5(x)",
        &copy,
    ] {
        let error = file.execute(denied.to_owned(), vec![]).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_) | Error::Invalid(_)), "{denied}: {error}");
    }
    assert!(!elsewhere.exists());
    let server = both.databases.get("server").unwrap();
    server.query("SELECT set_config('my.secret', 'hunter2', false)".to_owned(), vec![]).await.unwrap();
    server.execute("CREATE TEMP TABLE mine AS SELECT 1 AS x".to_owned(), vec![]).await.unwrap();
    let left = server.query("SELECT current_setting('my.secret', true)".to_owned(), vec![]).await.unwrap();
    assert!(matches!(&left.rows[0][0], Value::Null) || left.rows[0][0] == text(""), "{left:?}");
    assert!(matches!(server.query("SELECT x FROM mine".to_owned(), vec![]).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_stopped_and_its_connection_with_it() {
    let both = both(|settings| {
        settings.max_connections = 1;
        settings.timeout = Duration::from_millis(300);
    });
    for (name, endless) in [
        ("file", "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"),
        ("server", "SELECT pg_sleep(60)"),
    ] {
        let database = both.databases.get(name).unwrap();
        let error = database.query(endless.to_owned(), vec![]).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{name}: {error}");
        // Also where nobody waits for it any more.
        let _ = tokio::time::timeout(Duration::from_millis(50), database.query(endless.to_owned(), vec![])).await;
        let mut again = database.query("SELECT 1".to_owned(), vec![]).await;
        for _ in 0..20 {
            if again.is_ok() {
                break;
            }
            again = database.query("SELECT 1".to_owned(), vec![]).await;
        }
        assert_eq!(again.unwrap().rows.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_so_for_who_asks() {
    let port = crate::store::postgres::tests::found::free_port();
    let nowhere = Place::Postgres(Secret::new(format!("postgres://me:hunter2@127.0.0.1:{port}/x")));
    let file = Place::Sqlite("/nowhere/at/all.db".into());
    let settings = [("server", nowhere), ("file", file)]
        .map(|(name, place)| (name.to_owned(), Settings { timeout: Duration::from_millis(300), ..settings(place) }));
    let databases = Databases::new(&settings.into());
    for name in ["server", "file"] {
        let error = databases.get(name).unwrap().query("SELECT 1".to_owned(), vec![]).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("nowhere"), "{error}");
    }
}

#[tokio::test]
async fn types_of_aserver_are_text_where_they_have_one_form() {
    let both = both(|_| {});
    let server = both.databases.get("server").unwrap();
    let statement = "SELECT 1::int2, 2::int4, 1.5::float4, true, '{\"a\":1}'::jsonb, \
                     '00000000-0000-0000-0000-000000000001'::uuid, '2027-01-02T03:04:05.25Z'::timestamptz, \
                     '2027-01-02'::date, '03:04:05'::time, 'x'::bpchar, NULL::int4";
    let row = server.query(statement.to_owned(), vec![]).await.unwrap().rows.remove(0);
    let expected = [
        Value::Integer(1),
        Value::Integer(2),
        Value::Real(1.5),
        Value::Boolean(true),
        text("{\"a\":1}"),
        text("00000000-0000-0000-0000-000000000001"),
        text("2027-01-02T03:04:05.250Z"),
        text("2027-01-02"),
        text("03:04:05"),
        text("x"),
        Value::Null,
    ];
    assert_eq!(row, expected);
    let error = server.query("SELECT 1.5::numeric AS amount".to_owned(), vec![]).await.unwrap_err();
    let expected = "column \"amount\": its type NUMERIC has no counterpart: cast it, as in ::text";
    assert_eq!(error, Error::Invalid(expected.to_owned()));
    let null = server.query("SELECT COALESCE($1, 7::int4)".to_owned(), vec![Value::Null]).await.unwrap();
    assert_eq!(null.rows, [[Value::Integer(7)]], "NULL has whatever type the statement wants");
}

fn sealed(byte: u8, bytes: usize) -> OutboxRow {
    OutboxRow { id: Uuid::now_v7(), sealed: vec![byte; bytes] }
}

#[tokio::test]
async fn a_row_of_the_outbox_is_there_with_the_transaction_or_not_at_all() {
    let both = both(|_| {});
    // The server may be one that others use as well.
    let engine = both.table.clone();
    for (name, database) in both.each() {
        let outbox = async || database.outbox(engine.clone(), Uuid::nil()).await.unwrap();
        assert_eq!(outbox().await, [], "{name}: nobody has made it");
        assert!(name == "server" || !both.directory.path().join("shop.db").exists(), "who looks makes no file");
    }
    both.make().await;
    for (name, database) in both.each() {
        let outbox = async || database.outbox(engine.clone(), Uuid::nil()).await.unwrap();
        let insert = both.say(name, "INSERT INTO ? (id, name) VALUES (:1, :2)");
        let begin = async |id: i64| {
            let mut begun = database.begin().await.unwrap();
            begun.execute(insert.clone(), row(id, "a")).await.unwrap();
            begun
        };
        let ids = async || {
            let rows = database.query(both.say(name, "SELECT id FROM ? ORDER BY id"), vec![]).await.unwrap().rows;
            rows.into_iter().flatten().collect::<Vec<_>>()
        };
        let (first, second) = (sealed(1, 100), sealed(2, 0));
        begin(1).await.commit_with(engine.clone(), first.clone()).await.unwrap();
        begin(2).await.commit_with(engine.clone(), second.clone()).await.unwrap();
        assert_eq!(outbox().await, [first.clone(), second.clone()], "{name}");
        // The row cannot be written, or a statement before it has failed.
        let error = begin(3).await.commit_with(engine.clone(), first.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Constraint(..)), "{name}: {error}");
        let mut failed = begin(3).await;
        failed.execute(insert.clone(), row(1, "again")).await.unwrap_err();
        let whole = failed.commit_with(engine.clone(), sealed(3, 1)).await.is_ok();
        assert_eq!(whole, name == "file", "a server undoes all of it, a file the one statement");
        let kept = if whole { vec![1, 2, 3] } else { vec![1, 2] };
        assert_eq!(ids().await, kept.iter().map(|id| Value::Integer(*id)).collect::<Vec<_>>(), "{name}");
        assert_eq!(outbox().await.len(), kept.len(), "{name}");
        // Others do not see them, and pages begin where one says.
        assert_eq!(database.outbox("other".to_owned(), Uuid::nil()).await.unwrap(), []);
        assert_eq!(database.outbox(engine.clone(), first.id).await.unwrap()[0], second);
        database.outbox_remove("other".to_owned(), vec![first.id]).await.unwrap();
        let all = outbox().await.into_iter().map(|row| row.id).collect();
        database.outbox_remove(engine.clone(), all).await.unwrap();
        assert_eq!(outbox().await, [], "{name}");
    }
}

#[tokio::test]
async fn a_page_of_the_outbox_is_bounded_by_bytes() {
    let both = both(|settings| settings.timeout = Duration::from_secs(30));
    let engine = both.table.clone();
    for (name, database) in both.each() {
        let rows = [MAX_SEALED / 2, MAX_SEALED + 1, MAX_SEALED / 2, 10].map(|bytes| sealed(1, bytes));
        for row in &rows {
            database.begin().await.unwrap().commit_with(engine.clone(), row.clone()).await.unwrap();
        }
        let page = async |after| {
            let page = database.outbox(engine.clone(), after).await.unwrap();
            page.into_iter().map(|row| (row.id, row.sealed.len())).collect::<Vec<_>>()
        };
        let half = MAX_SEALED / 2;
        assert_eq!(page(Uuid::nil()).await, [(rows[0].id, half), (rows[1].id, 0), (rows[2].id, half)], "{name}");
        assert_eq!(page(rows[2].id).await, [(rows[3].id, 10)], "{name}");
        database.outbox_remove(engine.clone(), rows.iter().map(|row| row.id).collect()).await.unwrap();
    }
}

#[tokio::test]
async fn transactions_that_make_the_outbox_at_the_same_time_all_commit() {
    let (both, server) = (both(|settings| settings.max_connections = 8), Server::own());
    let place = Place::Postgres(Secret::new(server.url()));
    let new = Databases::new(&[("new".to_owned(), Settings { max_connections: 8, ..settings(place) })].into());
    for database in [both.databases.get("file").unwrap(), new.get("new").unwrap()] {
        let racing: tokio::task::JoinSet<_> = (0..8)
            .map(|_| {
                let database = database.clone();
                async move { database.begin().await?.commit_with("me".to_owned(), sealed(1, 1)).await }
            })
            .collect();
        assert!(racing.join_all().await.into_iter().all(|committed| committed.is_ok()));
        assert_eq!(database.outbox("me".to_owned(), Uuid::nil()).await.unwrap().len(), 8);
    }
}

#[tokio::test]
async fn guests_can_neither_read_nor_write_the_outbox_of_a_file() {
    let both = both(|_| {});
    both.make().await;
    let file = both.databases.get("file").unwrap();
    let denied = async |statements: &[&str]| {
        for statement in statements {
            let error = file.execute(both.say("file", statement), vec![]).await.unwrap_err();
            assert!(matches!(error, Error::Denied(_)), "{statement}: {error}");
        }
    };
    denied(&["CREATE TABLE Tripline_Outbox (id)", "CREATE VIEW tripline_outbox AS SELECT 1"]).await;
    let row = sealed(1, 10);
    file.begin().await.unwrap().commit_with("me".to_owned(), row.clone()).await.unwrap();
    denied(&[
        "SELECT sealed FROM tripline_outbox",
        "SELECT count(*) FROM \"TRIPLINE_OUTBOX\"",
        "CREATE TABLE copy AS SELECT * FROM main.tripline_outbox",
        "INSERT INTO tripline_outbox VALUES ('me', x'00', x'00')",
        "INSERT INTO ? SELECT 9, hex(sealed), NULL FROM tripline_outbox",
        "UPDATE tripline_outbox SET sealed = x''",
        "DELETE FROM tripline_outbox",
        "DROP TABLE tripline_outbox",
        "ALTER TABLE tripline_outbox RENAME TO mine",
        "ALTER TABLE tripline_outbox ADD COLUMN more",
        "CREATE INDEX i ON tripline_outbox (sealed)",
        "CREATE TRIGGER t AFTER DELETE ON tripline_outbox BEGIN SELECT 1; END",
    ])
    .await;
    // Around a corner: what a trigger or a view does is asked about as well.
    let around = "CREATE TRIGGER t AFTER INSERT ON ? BEGIN DELETE FROM tripline_outbox; END";
    let _ = file.execute(both.say("file", around), vec![]).await;
    let _ = file.execute("CREATE VIEW v AS SELECT * FROM tripline_outbox".to_owned(), vec![]).await;
    denied(&["SELECT * FROM v"]).await;
    let _ = file.execute(both.say("file", "INSERT INTO ? (id, name) VALUES (1, 'a')"), vec![]).await;
    assert_eq!(file.outbox("me".to_owned(), Uuid::nil()).await.unwrap(), [row]);
}
