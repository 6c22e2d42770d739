//! All sockets of this engine, by the function that they belong to.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use trigger_core::{Binding, MEMBERS_PAGE, SocketEffect, SocketMember, Sockets};
use uuid::Uuid;

use crate::endpoint::Endpoint;

/// The sockets that are open here.
#[derive(Default)]
pub struct Hub {
    functions: RwLock<HashMap<Function, Vec<Place>>>,
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
            let (trigger, endpoint) = (binding.trigger_id.clone(), Arc::default());
            places.push(Place { trigger, path: path.into(), endpoint, claims: 0 });
            places.len() - 1
        });
        places[index].claims += 1;
        let endpoint = places[index].endpoint.clone();
        drop(functions);
        Claim { hub: self.clone(), binding, endpoint }
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
        for endpoint in self.endpoints(&effect.namespace, &effect.function) {
            endpoint.apply(&effect.command);
        }
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
