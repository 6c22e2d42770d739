//! All sockets of this engine, by the function that they belong to.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::RwLock;
use trigger_core::{Binding, MEMBERS_PAGE, SocketEffect, SocketMember, SocketPeers, Sockets};
use uuid::Uuid;

use crate::endpoint::Endpoint;
use crate::peers::{Cluster, Heeded};
use crate::wire::{Members, Said, Site};

/// Members of rooms that are told to other engines at once.
const MEMBERS_AT_ONCE: usize = 2_000;

/// The sockets that are open here.
#[derive(Default)]
pub struct Hub {
    functions: RwLock<HashMap<Function, Vec<Place>>>,
    /// The engines that have sockets of the same functions, where there may be others.
    pub(crate) cluster: OnceLock<Arc<Cluster>>,
}

/// A function's namespace and name.
type Function = (Box<str>, Box<str>);

/// An endpoint of a function: its trigger's name, its path, and how many triggers bind or run it.
struct Place {
    trigger: Box<str>,
    path: Box<str>,
    endpoint: Arc<Endpoint>,
    claims: usize,
}

/// A trigger's hold on its endpoint. During a reload the old trigger and the new one have the same; when the last of them
/// lets go, the sockets are closed.
pub(crate) struct Claim {
    hub: Arc<Hub>,
    binding: Arc<Binding>,
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Hub {
    /// The endpoint of a trigger on a path: the one that there is, with its sockets, or a new one.
    pub(crate) fn claim(self: &Arc<Self>, binding: Arc<Binding>, path: &str) -> Claim {
        let function = (binding.namespace.clone(), binding.function_name.clone());
        let mut functions = self.functions.write();
        let places = functions.entry(function).or_default();
        let found = places.iter().position(|place| place.trigger == binding.trigger_id && *place.path == *path);
        let index = found.unwrap_or_else(|| {
            let (namespace, function) = (binding.namespace.clone(), binding.function_name.clone());
            let trigger = binding.trigger_id.clone();
            let site = Site { namespace, function, trigger: trigger.clone(), path: path.into() };
            let endpoint = Arc::new(Endpoint::new(site, self.cluster.get().cloned()));
            places.push(Place { trigger, path: path.into(), endpoint, claims: 0 });
            places.len() - 1
        });
        places[index].claims += 1;
        let endpoint = places[index].endpoint.clone();
        drop(functions);
        Claim { hub: self.clone(), binding, endpoint }
    }

    fn everywhere(&self) -> Vec<Arc<Endpoint>> {
        self.functions.read().values().flatten().map(|place| place.endpoint.clone()).collect()
    }

    /// Does what another engine says.
    pub(crate) fn hear(&self, cluster: &Cluster, bytes: &[u8]) {
        let mut world = cluster.lock();
        let Some(Heeded { stamp, missed, said }) = world.hear(bytes, Instant::now()) else { return };
        if missed {
            self.everywhere().iter().for_each(|endpoint| endpoint.tell_missed());
        }
        match said {
            Said::Beat { .. } | Said::Ask { .. } => {}
            Said::Do { namespace, function, command } => {
                for endpoint in self.endpoints(&namespace, &function) {
                    endpoint.apply(&command, Some((&mut world, &stamp)));
                }
            }
            Said::Member { site, room, client, joined } => {
                let endpoints = self.endpoints(&site.namespace, &site.function);
                if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.site == *site) {
                    endpoint.heard_of(&world.heard, stamp.engine, &room, client, joined);
                }
            }
            Said::Rooms { first, last, rooms } => {
                if let Some(rooms) = world.rooms_of(stamp.engine, first, last, rooms) {
                    let endpoints = self.everywhere();
                    endpoints.iter().for_each(|endpoint| endpoint.heard_all(&world.heard, stamp.engine, &rooms));
                }
            }
        }
    }

    /// Does what is due from time to time where engines share their sockets.
    pub(crate) fn beat(&self, cluster: &Cluster, away: bool) {
        let mut world = cluster.lock();
        let died = world.beat(Instant::now(), away);
        let endpoints = self.everywhere();
        for engine in died {
            endpoints.iter().for_each(|endpoint| endpoint.heard_all(&world.heard, engine, &[]));
        }
        if !away && world.was_asked() {
            let rooms: Vec<Members> = endpoints.iter().flat_map(|endpoint| endpoint.rooms()).collect();
            let mut parts = in_parts(rooms).into_iter().peekable();
            let mut first = true;
            while let Some(rooms) = parts.next() {
                world.say(Said::Rooms { first, last: parts.peek().is_none(), rooms });
                first = false;
            }
        }
    }

    fn endpoints(&self, namespace: &str, function: &str) -> Vec<Arc<Endpoint>> {
        let functions = self.functions.read();
        let places = functions.get(&(namespace.into(), function.into()));
        places.into_iter().flatten().map(|place| place.endpoint.clone()).collect()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let function = (self.binding.namespace.clone(), self.binding.function_name.clone());
        let mut functions = self.hub.functions.write();
        let Some(places) = functions.get_mut(&function) else { return };
        let Some(index) = places.iter().position(|place| Arc::ptr_eq(&place.endpoint, &self.endpoint)) else { return };
        places[index].claims -= 1;
        if places[index].claims > 0 {
            return;
        }
        places.swap_remove(index);
        if places.is_empty() {
            functions.remove(&function);
        }
        drop(functions);
        self.endpoint.end();
    }
}

impl Sockets for Hub {
    fn serves(&self, namespace: &str, function: &str) -> bool {
        self.functions.read().contains_key(&(namespace.into(), function.into()))
    }

    fn apply(&self, effect: SocketEffect) {
        let SocketEffect { namespace, function, command } = effect;
        let endpoints = self.endpoints(&namespace, &function);
        let Some(cluster) = self.cluster.get() else {
            return endpoints.iter().for_each(|endpoint| endpoint.apply(&command, None));
        };
        let mut world = cluster.lock();
        let is_here = |client| endpoints.iter().any(|endpoint| endpoint.has(client));
        let stamp = match command.client().is_some_and(is_here) {
            // It is nobody else's business.
            true => world.stamp(world.heard.engine),
            false => world.say(Said::Do {
                namespace: namespace.as_ref().into(),
                function: function.as_ref().into(),
                command: Cow::Borrowed(&command),
            }),
        };
        endpoints.iter().for_each(|endpoint| endpoint.apply(&command, Some((&mut world, &stamp))));
    }

    fn others(&self) -> Option<SocketPeers> {
        self.cluster.get().map(|cluster| cluster.counts())
    }

    fn members(&self, namespace: &str, function: &str, room: &str, after: Option<Uuid>) -> Vec<SocketMember> {
        let endpoints = self.endpoints(namespace, function);
        let mut members: Vec<SocketMember> =
            endpoints.iter().flat_map(|endpoint| endpoint.members(room, after)).collect();
        members.sort_unstable_by_key(|member| member.client);
        members.truncate(MEMBERS_PAGE);
        members
    }

    fn attachment(&self, namespace: &str, function: &str, client: Uuid) -> Option<Bytes> {
        self.endpoints(namespace, function).iter().find_map(|endpoint| endpoint.attachment(client))
    }
}

/// Members of rooms in parts that are not too large to be said; one part where there are none.
fn in_parts(rooms: Vec<Members>) -> Vec<Vec<Members>> {
    let (mut parts, mut size) = (vec![Vec::new()], 0);
    for Members { site, room, clients } in rooms {
        for clients in clients.chunks(MEMBERS_AT_ONCE) {
            // A room's names are as large as some clients.
            let more = clients.len() + 16;
            if size > 0 && size + more > MEMBERS_AT_ONCE {
                parts.push(Vec::new());
                size = 0;
            }
            size += more;
            let members = Members { site: site.clone(), room: room.clone(), clients: clients.to_vec() };
            parts.last_mut().expect("there is one").push(members);
        }
    }
    parts
}
