//! SIGHUP: a new configuration for a running server, as far as it can be changed so.
//!
//! All or nothing: a configuration with any fault changes nothing. What the table of keys does not mark as reloaded waits
//! for a restart and is named in the log. Knows nothing of where a configuration comes from.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::api::{EventStreams, RouteSettings, SocketService};
use crate::chat::Chat;
use crate::config::{Config, Reload, Settings};
use crate::descriptors::{self, Descriptors, Share};
use crate::disk::RealDisk;
use crate::feed::Feed;
use crate::front::Front;
use crate::logging;
use crate::permit::Semaphore;
use crate::server::local::Local;
use crate::server::tcp;

/// Reads the configuration anew; an error is every fault of it.
pub type ConfigSource<'a> = dyn Fn() -> Result<Settings, Vec<String>> + 'a;

/// Limits that no other part holds.
pub(super) struct Limits {
    pub(super) descriptors: Arc<Descriptors>,
    /// Connections at once.
    pub(super) connections_max: Arc<AtomicUsize>,
    /// Bytes that wait for clients.
    pub(super) outgoing: Arc<Semaphore>,
    /// Settings of single routes.
    pub(super) routes: Arc<RouteSettings>,
}

/// The most requests that wait for events: they must leave connections for those that record.
pub(super) fn watching_max(config: &Config, share: Share) -> usize {
    config.server.max_feed_streams.min(share.connections / 2).max(1)
}

/// The most requests that wait for answers: they must leave connections for those that record.
pub(super) fn waiting_max(share: Share) -> usize {
    (share.connections / 4).max(1)
}

/// The most event streams of sessions: the others that wait have their connections, and an eighth is for those that record.
pub(super) fn event_streams_max(config: &Config, share: Share) -> usize {
    let others = watching_max(config, share) + waiting_max(share) + share.connections / 8;
    config.server.max_event_streams.min(share.connections.saturating_sub(others)).max(1)
}

/// The parts of a running server that take a new configuration.
pub(super) struct ReloadableParts<'a> {
    pub(super) tcp: &'a tcp::Listening,
    pub(super) local: Option<&'a Local>,
    pub(super) sockets: &'a SocketService,
    pub(super) events: &'a EventStreams,
    pub(super) feed: &'a Feed<RealDisk>,
    pub(super) chat: &'a Chat,
    pub(super) front: &'a Front,
    pub(super) limits: &'a Limits,
}

impl ReloadableParts<'_> {
    /// Reads a new configuration, puts it into effect as far as that goes, and says so in the log. `running` is the one in
    /// effect.
    pub(super) fn reload(&self, running: &mut Settings, source: &ConfigSource<'_>) {
        let read = source().and_then(|new| {
            running.reload(&new).map_err(|faults| {
                let what = |fault| format!("{fault} (with what waits for a restart)");
                faults.iter().map(what).collect()
            })
        });
        match read {
            Ok(reload) => *running = self.take(running, reload),
            Err(faults) => {
                faults.iter().for_each(|fault| log::error!("SIGHUP: {fault}"));
                log::error!(
                    "SIGHUP: the configuration is not reloaded and nothing is changed; faults: {}",
                    faults.len()
                );
            }
        }
    }

    fn take(&self, running: &Settings, Reload { settings, changed, needs_restart }: Reload) -> Settings {
        let (before, config) = (running.config(), settings.config());
        self.apply(&config);
        // The more detailed of both levels, so that this is told either way.
        logging::set_level(before.log.level.max(config.log.level));
        if !needs_restart.is_empty() {
            log::warn!("SIGHUP: these changes need a restart: {}", listed(&needs_restart));
        }
        log::info!("SIGHUP: the configuration is reloaded; changed: {}", listed(&changed));
        logging::set_level(config.log.level);
        settings
    }

    fn apply(&self, config: &Config) {
        let (server, websocket) = (&config.server, &config.websocket);
        let share = descriptors::share(descriptors::limit(), server.max_connections, websocket.max_connections);
        self.limits.descriptors.share_anew(share);
        self.limits.connections_max.store(share.connections, Ordering::Relaxed);
        self.limits.outgoing.set_max(server.max_outgoing_bytes);
        self.limits.routes.reload(config);
        self.feed.set_watching_max(watching_max(config, share));
        self.events.set_max(event_streams_max(config, share));
        self.chat.reload(&config.responder, waiting_max(share));
        self.front.reload(config);
        self.sockets.reload(websocket);
        self.tcp.reload(server, websocket);
        if let Some(local) = self.local {
            local.reload(server.max_body_bytes);
        }
    }
}

fn listed(keys: &[&str]) -> String {
    if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
}
