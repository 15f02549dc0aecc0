//! PostgreSQL for the tests. One server per run: `TEST_DATABASE_URL`; else Docker, through testcontainers; else the
//! machine's own binaries. One fresh database per test: a copy of a template that is migrated once.
//!
//! | variable                      | meaning                                                         |
//! |-------------------------------|-----------------------------------------------------------------|
//! | `TEST_DATABASE_URL`           | a server whose role may create databases                        |
//! | `BALLAST_TEST_POSTGRES_IMAGE` | image:tag for testcontainers; default `postgres:17-bookworm`    |
//! | `BALLAST_TEST_REQUIRE`        | `testcontainers`: fail instead of using anything else           |

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ballast::embedded::{Embedded, EmbeddedConfig};
use ballast::stop::Stop;
use ballast::store::schema;
use testcontainers_modules::postgres::Postgres;
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ImageExt};
use tokio_postgres::{Client, NoTls};

const IMAGE: &str = "postgres:17-bookworm";
/// How long a server may take to start, and a connection to be made.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The server of this run.
struct Server {
    /// A connection string without a database name.
    url: String,
    /// Ends what was started when this process ends, however it ends.
    reaper: Option<ChildStdin>,
    template: String,
}

/// A database that belongs to one test. On a server that outlives the run it is dropped with the value.
pub struct Database {
    name: String,
    /// Where it is, if not on the server of the run.
    elsewhere: Option<String>,
}

impl Database {
    /// A fresh database with the current schema and no rows.
    pub async fn migrated() -> Self {
        let server = server();
        Self::create(&format!("TEMPLATE {}", server.template)).await
    }

    /// A fresh database without any schema.
    pub async fn empty() -> Self {
        Self::create("").await
    }

    async fn create(options: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ballast_test_{}_{number}", std::process::id());
        let admin = connect(&server().url_of("postgres")).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {name} {options}"))
            .await
            .expect("a test's database is created");
        Self {
            name,
            elsewhere: None,
        }
    }

    /// One on a server of the test's own.
    pub fn elsewhere(url: String) -> Self {
        Self {
            name: "elsewhere".to_owned(),
            elsewhere: Some(url),
        }
    }

    pub fn url(&self) -> String {
        let elsewhere = self.elsewhere.clone();
        elsewhere.unwrap_or_else(|| server().url_of(&self.name))
    }

    /// The same database for another role.
    pub fn url_as(&self, role: &str, password: &str) -> String {
        format!("{} user={role} password={password}", self.url())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where another database of its server is.
    pub fn url_beside(&self, name: &str) -> String {
        server().url_of(name)
    }

    /// A connection to another database of its server.
    pub async fn admin(&self) -> Client {
        connect(&self.url_beside("postgres")).await
    }

    /// A connection to it, for looking at what only SQL shows.
    pub async fn sql(&self) -> Client {
        connect(&self.url()).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.elsewhere.is_some() || server().reaper.is_some() {
            // Its server ends with this process, and each drop would cost all others a checkpoint.
            return;
        }
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let dropped = std::thread::spawn(|| {
            block_on(async move {
                let admin = connect(&server().url_of("postgres")).await;
                admin
                    .batch_execute(&drop)
                    .await
                    .expect("a test's database is dropped");
            });
        });
        let _panicked = dropped.join();
    }
}

impl Server {
    fn url_of(&self, database: &str) -> String {
        format!("{} dbname={database}", self.url)
    }
}

/// Says something to the person who runs the tests. Not by `eprintln!`, which the test harness keeps for itself as long as
/// the test passes.
fn tell(text: &str) {
    let _nobody_reads = writeln!(std::io::stderr().lock(), "{text}");
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    // In a thread with a runtime of its own: it outlives the runtime of the test that came first.
    SERVER.get_or_init(|| {
        std::thread::spawn(|| block_on(Server::start()))
            .join()
            .expect("a PostgreSQL for the tests starts")
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("the test database accepts connections");
    tokio::spawn(connection);
    client
}

impl Server {
    async fn start() -> Self {
        let required = std::env::var("BALLAST_TEST_REQUIRE").ok();
        let named = std::env::var("TEST_DATABASE_URL").ok();
        let (what, url, reaper) = match (named, required.as_deref()) {
            (Some(url), None) => ("TEST_DATABASE_URL".to_owned(), key_values(&url), None),
            (_, Some("testcontainers")) => in_container()
                .await
                .unwrap_or_else(|cause| panic!("testcontainers are required: {cause}")),
            (_, Some(other)) => panic!("BALLAST_TEST_REQUIRE={other} is not known"),
            (None, None) => match in_container().await {
                Ok(started) => started,
                Err(cause) => {
                    tell(&format!("no PostgreSQL through testcontainers: {cause}"));
                    from_binaries().await
                }
            },
        };
        let mut server = Self {
            url,
            reaper,
            template: format!("ballast_template_{}", std::process::id()),
        };
        let version = server.make_template().await;
        tell(&format!("tests run on PostgreSQL {version} from {what}"));
        server
    }

    async fn make_template(&mut self) -> String {
        let admin = connect(&self.url_of("postgres")).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {}", self.template))
            .await
            .expect("a template is created");
        let mut client = schema::connect(&self.url_of(&self.template), TIMEOUT)
            .await
            .expect("the template is there");
        schema::migrate(&mut client)
            .await
            .expect("the migrations run");
        drop(client);
        // A template in use cannot be copied: wait for its connection to end.
        let others = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'",
            self.template
        );
        while admin
            .query_one(&others, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
            > 0
        {
            tokio::task::yield_now().await;
        }
        admin
            .query_one("SHOW server_version", &[])
            .await
            .expect("a version")
            .get(0)
    }
}

type Started = (String, String, Option<ChildStdin>);

async fn in_container() -> Result<Started, String> {
    let image = std::env::var("BALLAST_TEST_POSTGRES_IMAGE").unwrap_or_else(|_| IMAGE.to_owned());
    let (name, tag) = image
        .rsplit_once(':')
        .ok_or_else(|| format!("image {image} has no tag"))?;
    let request = Postgres::default()
        .with_fsync_enabled()
        .with_name(name)
        .with_tag(tag)
        .with_cmd(["-c", "max_connections=400", "-c", "max_wal_size=4GB"])
        .with_startup_timeout(TIMEOUT);
    let container = request.start().await.map_err(|error| error.to_string())?;
    let url = container_url(&container)
        .await
        .map_err(|error| error.to_string())?;
    let reaper = reaper("docker rm --force --volumes \"$0\"", container.id());
    // Its end is the reaper's business: a static is never dropped, a killed process drops nothing.
    std::mem::forget(container);
    Ok((format!("{image}, in a container"), url, reaper))
}

async fn container_url(
    container: &ContainerAsync<Postgres>,
) -> Result<String, testcontainers_modules::testcontainers::TestcontainersError> {
    let (host, port) = (
        container.get_host().await?,
        container.get_host_port_ipv4(5432).await?,
    );
    Ok(format!(
        "host={host} port={port} user=postgres password=postgres"
    ))
}

async fn from_binaries() -> Started {
    let OwnServer {
        postgres, reaper, ..
    } = OwnServer::start().await;
    let url = postgres.database_url().replace(" dbname=ballast", "");
    let version = postgres.version().to_owned();
    std::mem::forget(postgres);
    (format!("the binaries of {version}"), url, reaper)
}

/// A PostgreSQL on the machine's binaries: its processes are the machine's, and a test may do to it what it likes. It ends
/// when the value is dropped, or with this process.
pub struct OwnServer {
    folder: PathBuf,
    postgres: Embedded,
    reaper: Option<ChildStdin>,
}

impl OwnServer {
    /// A server with an empty database.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ballast-test-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let postgres = Self::start_in(&folder).await;
        let pid_file = folder.join("postgres/postmaster.pid");
        let stop = "kill -INT $(head -n 1 \"$0\"/postgres/postmaster.pid); \
                    while test -e \"$0\"/postgres/postmaster.pid; do sleep 0.1; done; rm -rf \"$0\"";
        assert!(pid_file.exists(), "PostgreSQL says who it is");
        let reaper = reaper(stop, &folder.to_string_lossy());
        Self {
            folder,
            postgres,
            reaper,
        }
    }

    async fn start_in(folder: &Path) -> Embedded {
        let config = EmbeddedConfig {
            data_dir: Some(folder.to_owned()),
            ..EmbeddedConfig::default()
        };
        Embedded::start(config, &Stop::default())
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Its database, with the current schema.
    pub async fn migrated(&self) -> Arc<Database> {
        let url = self.postgres.database_url();
        let mut client = schema::connect(&url, TIMEOUT).await.expect("it is there");
        schema::migrate(&mut client)
            .await
            .expect("the migrations run");
        Arc::new(Database::elsewhere(url))
    }

    /// Starts it again, as a standby of nobody.
    pub async fn become_standby(self) -> Self {
        let Self {
            folder,
            postgres,
            reaper,
        } = self;
        postgres.stop(std::future::pending()).await;
        std::fs::write(folder.join("postgres/standby.signal"), "").expect("a signal file");
        Self {
            postgres: Self::start_in(&folder).await,
            folder,
            reaper,
        }
    }
}

/// Runs `command` with `argument` when this process ends: then the pipe that it reads from ends.
fn reaper(command: &str, argument: &str) -> Option<ChildStdin> {
    let script = format!("cat >/dev/null; {command}");
    let mut shell = Command::new("sh");
    // In a process group of its own: Ctrl-C in a terminal is not for it.
    shell
        .process_group(0)
        .args(["-c", &script, argument])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell.spawn().expect("a shell starts").stdin.take()
}

/// A connection string as words, without its database.
fn key_values(url: &str) -> String {
    let config: tokio_postgres::Config = url
        .parse()
        .expect("TEST_DATABASE_URL is a connection string");
    let mut words = Vec::new();
    for host in config.get_hosts() {
        words.push(match host {
            tokio_postgres::config::Host::Tcp(name) => format!("host={name}"),
            tokio_postgres::config::Host::Unix(path) => format!("host='{}'", path.display()),
        });
    }
    words.extend(config.get_ports().iter().map(|port| format!("port={port}")));
    words.extend(config.get_user().map(|user| format!("user='{user}'")));
    let password = config.get_password().map(String::from_utf8_lossy);
    words.extend(password.map(|password| format!("password='{password}'")));
    words.join(" ")
}
