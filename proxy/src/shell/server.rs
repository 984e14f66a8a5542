//! Binds, runs and drains the whole proxy. Requests are served by `threads` threads, each with a
//! runtime of its own; the feed has another one, and admin listener and signals a third, so that load
//! on the data path starves neither placements nor health.
//!
//! Stop (SIGTERM or SIGINT): not ready any more; listeners close; idle connections close; requests
//! in flight finish, within the drain time; then the process ends.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use maia_common::cluster_key::{ClusterKey, ClusterKeyError};
use maia_common::rpc::{Rpc, RpcFault};
use maia_common::runtime::{Gate, Tasks};
use pingora::apps::{HttpServerApp, HttpServerOptions};
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, TableMode};
use crate::core::decide::Rules;
use crate::core::fingerprint::FingerprintKey;
use crate::shell::access_log::AccessLog;
use crate::shell::admin::{Admin, Readiness};
use crate::shell::disk_snapshot::DiskSnapshot;
use crate::shell::feed::Follower;
use crate::shell::listener::{Acceptor, Treatment};
use crate::shell::lookups::Lookups;
use crate::shell::metrics::Metrics;
use crate::shell::on_demand::OnDemand;
use crate::shell::origin;
use crate::shell::placements::Placements;
use crate::shell::saver::Saver;
use crate::shell::service::{MAX_TRIES, Proxy};

/// Connections of the admin listener: scrapers and operators.
const MAX_ADMIN_CONNECTIONS: u32 = 64;
/// For scrapers that hold an idle connection.
const ADMIN_DRAIN: Duration = Duration::from_millis(200);
/// For the snapshot at the end: ten million tenants on a slow disk.
const LAST_SAVE: Duration = Duration::from_secs(10);
/// For threads that a hung disk holds after that: they end with the process.
const LAST_THREADS: Duration = Duration::from_millis(100);
/// How long a thread without requests may hold placements that were replaced. The feed's next message
/// frees them then; while tenants come by the thousand, that is at once.
const HOLDS_OLD: Duration = Duration::from_millis(20);
/// Idle connections kept to the origin.
const ORIGIN_POOL: usize = 1024;

/// Why the proxy can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not this machine's.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Another process uses the folder.
    #[error("dir: another proxy uses {0}")]
    Folder(PathBuf),
    /// The origin's name.
    #[error("origin.url: {0}")]
    Origin(std::io::Error),
    /// The cluster key changed since it was checked.
    #[error(transparent)]
    Key(#[from] ClusterKeyError),
    /// The certificates changed since they were checked.
    #[error(transparent)]
    Rpc(#[from] RpcFault),
    /// A runtime or a thread.
    #[error("can't start: {0}")]
    Runtime(#[from] std::io::Error),
    /// A bug.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A proxy that holds its ports.
pub struct Server {
    config: Arc<Config>,
    public: StdListener,
    admin: StdListener,
    proxy: Arc<HttpProxy<Proxy>>,
    placements: Arc<Placements>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    access_log: Option<AccessLog>,
    follower: Follower,
    rpc: Rpc,
    saver: Saver,
    /// The folder's, held to the end; none where the file system knows no locks.
    lock: Option<File>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Builds everything and takes the ports.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let key = ClusterKey::from_file(&config.cluster_key_file)?;
        let peer = origin::peer(&config).map_err(StartError::Origin)?;
        let rpc = config.rpc.open(config.party(), &key)?;
        let metrics = Arc::new(Metrics::new(rpc.clone())?);
        let readiness = Arc::new(Readiness::default());
        let rules = Rules {
            local_region: config.region.clone(),
            write_routing: config.proxy.write_routing,
        };
        let whole = config.proxy.table == TableMode::Full;
        let disk = DiskSnapshot::new(&config.dir, key.mark(), whole);
        let lock = lock(&config, &disk)?;
        let on_demand = (!whole).then(|| OnDemand::new(config.proxy.table_max_tenants));
        let placements = Arc::new(placements(rules, &disk, on_demand)?);
        let lookups = Arc::new(Lookups::new(
            config.id.to_string(),
            config.proxy.placings_per_second,
            Arc::clone(&metrics),
        ));
        let access_log = config.proxy.access_log;
        let access_log = access_log.then(|| AccessLog::new(metrics.log_dropped.clone()));
        let service = Proxy::new(
            Arc::clone(&config),
            peer,
            Arc::clone(&placements),
            Arc::clone(&lookups),
            Arc::clone(&metrics),
            access_log.clone(),
        );
        let follower = Follower {
            proxy: config.id.to_string(),
            region: config.region.to_string(),
            coordinators: config.feed.coordinators.clone(),
            rpc: rpc.clone(),
            placements: Arc::clone(&placements),
            lookups,
            metrics: Arc::clone(&metrics),
            connected: Arc::clone(&readiness.feed_connected),
        };
        let saver = Saver::new(
            Arc::clone(&placements),
            Arc::clone(&metrics),
            disk,
            config.proxy.snapshot_every,
        );
        Ok(Self {
            saver,
            lock,
            public: listen(config.listen.public)?,
            admin: listen(config.listen.admin)?,
            proxy: Arc::new(http_proxy(&config, service)),
            config,
            placements,
            metrics,
            readiness,
            access_log,
            follower,
            rpc,
            stop: watch::Sender::new(false),
        })
    }

    /// Runs until a signal says stop, and drains.
    ///
    /// # Errors
    /// [`StartError::Runtime`]
    pub fn run(mut self) -> Result<(), StartError> {
        let _lock = self.lock.take();
        let control = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("maia-control")
            .enable_all()
            .build()?;
        // One thread: what it replaces in the table it has (but for what came from disk) allocated itself,
        // so that the allocator can use it again. Two that take turns keep nearly twice the memory.
        let feed = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("maia-feed")
            .enable_all()
            .build()?;
        let following = feed.handle().clone();
        if let Some(log) = self.access_log.clone() {
            std::thread::Builder::new()
                .name("maia-access-log".into())
                .spawn(move || log.run())?;
        }
        let tasks = Tasks::new();
        let threads = self.serve()?;
        let access_log = self.access_log.clone();
        control.block_on(async move {
            // Health is told until the very end: this one stops last.
            let last = watch::Sender::new(false);
            let saving = Tasks::new();
            self.control((&tasks, &saving), &following, last.subscribe())
                .await?;
            let drained = tokio::task::spawn_blocking(move || join(threads)).await;
            if !drained.unwrap_or(false) {
                tracing::warn!("some requests were cut off at the end of the drain time");
            }
            saving.shutdown(LAST_SAVE).await;
            last.send_replace(true);
            tasks.shutdown(ADMIN_DRAIN).await;
            Ok::<(), StartError>(())
        })?;
        feed.shutdown_timeout(LAST_THREADS);
        control.shutdown_timeout(LAST_THREADS);
        if let Some(log) = access_log {
            log.flush();
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Feed and admin listener, until a signal.
    async fn control(
        self,
        (tasks, saving): (&Tasks, &Tasks),
        following: &Handle,
        last: watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Reloading comes with a later issue; until then a hangup must not end the process.
        let _ignored = signal(SignalKind::hangup())?;
        let admin = Arc::new(Acceptor {
            app: Arc::new(Admin {
                placements: self.placements,
                metrics: self.metrics,
                readiness: Arc::clone(&self.readiness),
                places: self.config.proxy.unknown_tenant.placement().is_some(),
            }),
            treatment: treatment(&self.config, false),
            gate: Gate::new(MAX_ADMIN_CONNECTIONS),
            tasks: tasks.clone(),
            shutdown: last,
            metrics: None,
        });
        let admin_address = self.admin.local_addr()?;
        let listener = TcpListener::from_std(self.admin)?;
        tasks.spawn_until_stop("admin", admin.run(listener));
        tasks.spawn_until_stop("rpc certificates", self.rpc.watch());
        let feed = self.follower.run(Handle::current());
        tasks.spawn_until_stop_on(following, "feed", feed);
        saving.spawn("snapshot", self.saver.run(saving.clone()));
        self.readiness.listeners.store(true, Ordering::Relaxed);
        if self.config.rpc.plaintext {
            tracing::warn!("rpc.plaintext: the feed is neither encrypted nor are its ends certain");
        }
        tracing::info!(
            proxy = %self.config.id,
            region = %self.config.region,
            public = %self.public.local_addr()?,
            admin = %admin_address,
            "serving"
        );
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        self.readiness.draining.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        self.proxy.http_cleanup().await;
        Ok(())
    }

    /// The threads that serve requests. Each ends when it has drained, and says whether all of
    /// its requests could finish.
    fn serve(&self) -> Result<Vec<JoinHandle<bool>>, StartError> {
        let gate = Gate::new(self.config.listen.max_connections);
        let together = Arc::new(Barrier::new(self.config.threads));
        let mut threads = Vec::with_capacity(self.config.threads);
        for number in 0..self.config.threads {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let listener = self.public.try_clone()?;
            let tasks = Tasks::new();
            let acceptor = Arc::new(Acceptor {
                app: Arc::clone(&self.proxy),
                treatment: treatment(&self.config, self.config.proxy.h2c),
                gate: gate.clone(),
                tasks: tasks.clone(),
                shutdown: self.stop.subscribe(),
                metrics: Some(Arc::clone(&self.metrics)),
            });
            let refreshing = refresh(Arc::clone(&self.placements));
            tasks.spawn_until_stop_on(runtime.handle(), "refresh", refreshing);
            let drain = self.config.timeouts.drain;
            let together = Arc::clone(&together);
            let thread = std::thread::Builder::new().name(format!("maia-serve-{number}"));
            threads.push(thread.spawn(move || {
                let drained = serve(&runtime, acceptor, listener, &tasks, drain);
                // Connections to the origin live in one thread's runtime and serve all.
                together.wait();
                drained
            })?);
        }
        Ok(threads)
    }
}

fn serve(
    runtime: &Runtime,
    acceptor: Arc<Acceptor<HttpProxy<Proxy>>>,
    listener: StdListener,
    tasks: &Tasks,
    drain: Duration,
) -> bool {
    runtime.block_on(async {
        match TcpListener::from_std(listener) {
            Ok(listener) => acceptor.run(listener).await,
            Err(e) => tracing::error!(error = %e, "a listener can't be used"),
        }
        let left = tasks.shutdown(drain).await;
        if !left.is_empty() {
            tracing::warn!(
                connections = left.len(),
                "connections did not finish in time"
            );
        }
        left.is_empty()
    })
}

/// So that a thread without requests holds no old placements.
async fn refresh(placements: Arc<Placements>) {
    let mut changes = placements.changes();
    while changes.changed().await.is_ok() {
        tokio::time::sleep(HOLDS_OLD).await;
        changes.mark_unchanged();
        placements.refresh();
    }
}

fn lock(config: &Config, disk: &DiskSnapshot) -> Result<Option<File>, StartError> {
    match disk.lock() {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(StartError::Folder(config.dir.clone())),
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, dir = %config.dir.display(), "the folder can't be locked");
            Ok(None)
        }
    }
}

fn join(threads: Vec<JoinHandle<bool>>) -> bool {
    let mut drained = true;
    for thread in threads {
        drained &= thread.join().unwrap_or(false);
    }
    drained
}

/// As they were saved, not yet in force; or none.
fn placements(
    rules: Rules,
    disk: &DiskSnapshot,
    on_demand: Option<OnDemand>,
) -> Result<Placements, StartError> {
    let Some(saved) = disk.load() else {
        return Ok(Placements::new(rules, fingerprint_key()?, on_demand));
    };
    tracing::info!(
        generation = %saved.topology.generation,
        revision = %saved.topology.revision,
        tenants = saved.tenants.len(),
        "placements loaded from the snapshot on disk"
    );
    let placements = Placements::new(rules, saved.key, on_demand);
    placements.restore(saved.topology, saved.tenants, saved.saved);
    Ok(placements)
}

/// Nobody else's: from the system's randomness.
fn fingerprint_key() -> Result<FingerprintKey, std::io::Error> {
    let mut secret = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(FingerprintKey::new(&secret))
}

fn listen(address: SocketAddr) -> Result<StdListener, StartError> {
    let bound = StdListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| StartError::Listen { address, source })
}

fn treatment(config: &Config, h2c: bool) -> Treatment {
    let timeouts = &config.timeouts;
    Treatment {
        header_timeout: timeouts.header,
        idle_timeout: timeouts.idle,
        linger_timeout: timeouts.linger,
        h2c,
    }
}

fn http_proxy(config: &Config, service: Proxy) -> HttpProxy<Proxy> {
    let conf = ServerConf {
        threads: config.threads,
        max_retries: MAX_TRIES,
        upstream_keepalive_pool_size: ORIGIN_POOL,
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(service, Arc::new(conf));
    proxy.handle_init_modules();
    let mut options = HttpServerOptions::default();
    options.h2c = config.proxy.h2c;
    options.h2_idle_timeout = Some(config.timeouts.idle);
    proxy.server_options = Some(options);
    proxy
}
