//! From a host, a method and a path to routes: one radix tree per method, one set of trees per host.
//!
//! One tree for all methods would be smaller, but then `GET /files/{id}` and `PUT /files/{*path}` could not both exist,
//! though nobody would mistake one for the other. A route that serves any method is in every tree, so that the most
//! specific *path* wins whether or not its trigger names methods. Where several routes have the same paths, a leaf has
//! them all, and their conditions decide.

use std::collections::HashMap;

use http::Method;
use matchit::{Match, Router};

use crate::conditions::Host;
use crate::config::Served;
use crate::pattern::Pattern;

/// A route, as the trees see it; `V` is what it leads to.
#[derive(Clone)]
pub(crate) struct Claim<'a, V> {
    pub(crate) host: &'a Host,
    pub(crate) served: &'a Served,
    pub(crate) pattern: &'a Pattern,
    /// Of its conditions: of several routes at one leaf the highest is first.
    pub(crate) rank: usize,
    pub(crate) value: V,
}

/// The trees of every host.
pub(crate) struct Hosts<V> {
    named: HashMap<Host, Trees<V>>,
    any: Trees<V>,
}

impl<V: Clone> Hosts<V> {
    /// Builds the trees. Of two routes that claim the same requests the earlier in `newest_first` wins, and the later is
    /// covered until the winner is gone.
    pub(crate) fn build<'a>(newest_first: &[Claim<'a, V>]) -> Self {
        let mut by_host: HashMap<&Host, Vec<Claim<'a, V>>> = HashMap::new();
        for claim in newest_first {
            by_host.entry(claim.host).or_default().push(claim.clone());
        }
        let any = Trees::build(&by_host.remove(&Host::Any).unwrap_or_default());
        let named = by_host.into_iter().map(|(host, claims)| (host.clone(), Trees::build(&claims))).collect();
        Self { named, any }
    }

    /// Whether it makes no difference what host a request names.
    pub(crate) fn are_all_alike(&self) -> bool {
        self.named.is_empty()
    }

    /// The trees that a request for this host may be found in, the most specific first.
    pub(crate) fn of(&self, host: Option<&str>) -> impl Iterator<Item = &Trees<V>> {
        let exact = host.and_then(|host| self.named.get(&Host::Is(host.into())));
        let mut rest = host.unwrap_or_default();
        let below = std::iter::from_fn(move || {
            (_, rest) = rest.split_once('.')?;
            Some(rest)
        });
        let below = below.filter_map(|name| self.named.get(&Host::Below(name.into())));
        exact.into_iter().chain(below).chain([&self.any])
    }
}

/// An immutable set of routes.
pub(crate) struct Trees<V> {
    named: Vec<(Method, Router<Vec<V>>)>,
    any: Router<Vec<V>>,
}

impl<V: Clone> Trees<V> {
    fn build(newest_first: &[Claim<'_, V>]) -> Self {
        let mut trees = Trees { named: Vec::new(), any: Router::new() };
        for Claim { served, .. } in newest_first {
            let Served::These(methods) = served else { continue };
            for method in methods {
                trees.add_tree(method);
                if method == Method::GET {
                    trees.add_tree(&Method::HEAD);
                }
            }
        }
        let serving = |method: &Method| {
            let method = method.clone();
            newest_first.iter().filter(move |claim| serves(claim.served, &method))
        };
        trees.any = tree(newest_first.iter().filter(|claim| *claim.served == Served::Any));
        for (method, of_method) in &mut trees.named {
            // After every route that serves HEAD by name or as any method, so that those win.
            let by_get =
                serving(&Method::GET).filter(|claim| *method == Method::HEAD && !serves(claim.served, &Method::HEAD));
            *of_method = tree(serving(method).chain(by_get));
        }
        trees
    }

    fn add_tree(&mut self, method: &Method) {
        if !self.named.iter().any(|(known, _)| known == method) {
            self.named.push((method.clone(), Router::new()));
        }
    }

    /// The routes for a request, the first to be asked first, and their parameters' values in order of appearance.
    pub(crate) fn at<'t, 'p>(&'t self, method: &Method, path: &'p str) -> Option<Match<'t, 'p, &'t Vec<V>>> {
        // CONNECT asks for a tunnel: whatever a function answered would be taken for one.
        if *method == Method::CONNECT {
            return None;
        }
        let tree = self.named.iter().find(|(known, _)| known == method).map_or(&self.any, |(_, tree)| tree);
        find(tree, path)
    }

    /// The methods that a route serves on this path, sorted; none if the path is unknown.
    pub(crate) fn methods(&self, path: &str) -> Vec<&Method> {
        let mut methods: Vec<&Method> =
            self.named.iter().filter(|(_, tree)| find(tree, path).is_some()).map(|(method, _)| method).collect();
        methods.sort_unstable_by_key(|method| method.as_str());
        methods
    }
}

fn serves(served: &Served, method: &Method) -> bool {
    match served {
        Served::Any => true,
        Served::These(these) => these.contains(method),
    }
}

/// One tree; of routes with the same paths the earlier is first, unless it has a lower rank.
fn tree<'a, 'c: 'a, V: Clone + 'a>(claims: impl Iterator<Item = &'a Claim<'c, V>>) -> Router<Vec<V>> {
    let mut leaves: Vec<(&str, Vec<&Claim<'_, V>>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for claim in claims {
        let shape = claim.pattern.shape();
        let place = *places.entry(shape).or_insert(leaves.len());
        if place == leaves.len() {
            leaves.push((shape, Vec::new()));
        }
        leaves[place].1.push(claim);
    }
    let mut tree = Router::new();
    for (shape, mut claims) in leaves {
        claims.sort_by_key(|claim| std::cmp::Reverse(claim.rank));
        // The only error left for a valid pattern is a conflict with a newer route, which covers this one.
        let _covered = tree.insert(shape, claims.into_iter().map(|claim| claim.value.clone()).collect());
    }
    tree
}

pub(crate) fn find<'t, 'p, V>(tree: &'t Router<V>, path: &'p str) -> Option<Match<'t, 'p, &'t V>> {
    let found = tree.at(path).ok()?;
    // matchit lets a parameter in the middle of a path be empty and one at the end not; a parameter always has a value.
    // So a path with an empty segment may be unknown although a catch-all could have taken it.
    found.params.iter().all(|(_, value)| !value.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::tests::patterns;
    use proptest::prelude::*;

    fn named(methods: &[Method]) -> Served {
        Served::These(methods.to_vec())
    }

    fn trees(routes: &[(Served, &str)]) -> Trees<usize> {
        let patterns: Vec<Pattern> = routes.iter().map(|(_, text)| Pattern::parse(text).unwrap()).collect();
        let all = routes.iter().zip(&patterns).enumerate().rev();
        let claims: Vec<_> = all
            .map(|(value, ((served, _), pattern))| Claim { host: &Host::Any, served, pattern, rank: 0, value })
            .collect();
        Trees::build(&claims)
    }

    fn at(trees: &Trees<usize>, method: Method, path: &str) -> Option<(usize, Vec<String>)> {
        let found = trees.at(&method, path)?;
        Some((found.value[0], found.params.iter().map(|(_, value)| value.to_owned()).collect()))
    }

    #[test]
    fn the_most_specific_path_wins_whatever_its_methods() {
        let trees = trees(&[
            (named(&[Method::GET]), "/{*rest}"),
            (Served::Any, "/health"),
            (named(&[Method::GET]), "/orders/{id}"),
            (named(&[Method::PUT]), "/orders/{*path}"),
            (named(&[Method::POST]), "/orders/{other-name}"),
        ]);
        assert_eq!(at(&trees, Method::GET, "/health"), Some((1, vec![])));
        assert_eq!(at(&trees, Method::PATCH, "/health"), Some((1, vec![])));
        assert_eq!(at(&trees, Method::GET, "/orders/7"), Some((2, vec!["7".into()])));
        assert_eq!(at(&trees, Method::PUT, "/orders/7/x"), Some((3, vec!["7/x".into()])));
        assert_eq!(at(&trees, Method::POST, "/orders/7"), Some((4, vec!["7".into()])));
        assert_eq!(at(&trees, Method::GET, "/orders/7/x"), Some((0, vec!["orders/7/x".into()])));
        assert_eq!(at(&trees, Method::DELETE, "/orders/7"), None);
        assert_eq!(at(&trees, Method::CONNECT, "/health"), None);
    }

    #[test]
    fn head_is_served_by_get_unless_named() {
        let trees = trees(&[
            (named(&[Method::GET]), "/a"),
            (named(&[Method::GET]), "/b"),
            (named(&[Method::HEAD]), "/b"),
            (named(&[Method::POST]), "/c"),
            (Served::Any, "/d"),
        ]);
        assert_eq!(at(&trees, Method::HEAD, "/a"), Some((0, vec![])));
        assert_eq!(at(&trees, Method::HEAD, "/b"), Some((2, vec![])));
        assert_eq!(at(&trees, Method::HEAD, "/c"), None);
        assert_eq!(at(&trees, Method::HEAD, "/d"), Some((4, vec![])));
        assert_eq!(trees.methods("/a"), [Method::GET, Method::HEAD]);
        assert_eq!(trees.methods("/c"), [Method::POST]);
        assert!(trees.methods("/nowhere").is_empty());
    }

    #[test]
    fn a_parameter_is_never_empty() {
        let trees = trees(&[(Served::Any, "/a/{x}/b"), (Served::Any, "/c/{*rest}")]);
        assert_eq!(at(&trees, Method::GET, "/a//b"), None);
        assert_eq!(at(&trees, Method::GET, "/c/"), None);
        assert_eq!(at(&trees, Method::GET, "/a/1/b"), Some((0, vec!["1".into()])));
    }

    #[test]
    fn of_two_claims_the_newer_wins() {
        let both = trees(&[(Served::Any, "/a/{x}"), (named(&[Method::GET]), "/a/{*y}")]);
        assert_eq!(at(&both, Method::GET, "/a/1").unwrap().0, 1);
        assert_eq!(at(&both, Method::GET, "/a/1/2").unwrap().0, 1);
        assert_eq!(at(&both, Method::POST, "/a/1").unwrap().0, 0, "the older is covered for GET only");
    }

    #[test]
    fn the_most_specific_host_is_asked_first_and_the_highest_rank_at_a_leaf() {
        let pattern = Pattern::parse("/a").unwrap();
        let hosts = ["*.example.com", "a.b.example.com", "*.b.example.com"].map(|host| Host::parse(host).unwrap());
        let claim = |host, rank, value| Claim { host, served: &Served::Any, pattern: &pattern, rank, value };
        let claims = [
            claim(&Host::Any, 0, "any, newer"),
            claim(&Host::Any, 2, "any, conditional"),
            claim(&Host::Any, 0, "any, older"),
            claim(&hosts[0], 0, "far"),
            claim(&hosts[1], 0, "exact"),
            claim(&hosts[2], 0, "near"),
        ];
        let built = Hosts::build(&claims);
        let asked = |host| -> Vec<&str> {
            built
                .of(host)
                .filter_map(|trees| trees.at(&Method::GET, "/a"))
                .flat_map(|found| found.value.clone())
                .collect()
        };
        let any = ["any, conditional", "any, newer", "any, older"];
        assert_eq!(asked(None), any);
        assert_eq!(asked(Some("example.com")), any, "it is not below itself");
        assert_eq!(asked(Some("c.example.com")), [&["far"][..], &any].concat());
        assert_eq!(asked(Some("a.b.example.com")), [&["exact", "near", "far"][..], &any].concat());
        assert!(!built.are_all_alike());
    }

    /// A path that only this pattern can mean: its parameters have values that are nobody's literal.
    fn path_of(pattern: &str) -> String {
        pattern.replace("{*rest}", "q/q/q").replace("{x}", "q").replace("{y}", "q").replace("{z}", "q")
    }

    /// Whether a pattern takes a path, told the slow way: its parameters' values if it does.
    fn takes(pattern: &str, path: &str) -> Option<Vec<String>> {
        let (mut values, mut rest) = (Vec::new(), path.strip_prefix('/')?);
        let mut segments = pattern[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment == "{*rest}" {
                values.push(rest.to_owned());
                return (!rest.is_empty()).then_some(values);
            }
            let (here, after) = rest.split_once('/').map_or((rest, None), |(here, after)| (here, Some(after)));
            match segment.starts_with('{') {
                false if here == segment => {}
                true if !here.is_empty() => values.push(here.to_owned()),
                _ => return None,
            }
            match (segments.peek().is_some(), after) {
                (true, Some(after)) => rest = after,
                (false, None) => return Some(values),
                _ => return None,
            }
        }
        None
    }

    proptest! {
        #[test]
        fn the_trees_agree_with_trying_every_pattern(
            texts in prop::collection::vec(patterns(), 1..10),
            paths in prop::collection::vec("(/[abq]{0,2}){1,4}", 1..20),
        ) {
            let routes: Vec<(Served, &str)> = texts
                .iter()
                .filter(|text| Pattern::parse(text).is_ok())
                .map(|text| (Served::Any, text.as_str()))
                .collect();
            let trees = trees(&routes);
            for path in &paths {
                let uncovered = |index: usize| {
                    let pattern = Pattern::parse(routes[index].1).unwrap();
                    !routes[index + 1..].iter().any(|(_, newer)| Pattern::parse(newer).unwrap().excludes(&pattern))
                };
                match at(&trees, Method::GET, path) {
                    Some((index, values)) => prop_assert_eq!(takes(routes[index].1, path), Some(values), "{}", path),
                    // An empty segment may lead past a pattern that would take it, but never to a wrong one.
                    None if path.contains("//") => {}
                    None => for (index, (_, text)) in routes.iter().enumerate() {
                        prop_assert!(!uncovered(index) || takes(text, path).is_none(), "{} {}", text, path);
                    },
                }
            }
        }

        #[test]
        fn every_route_that_is_not_covered_is_found(texts in prop::collection::vec(patterns(), 1..12)) {
            let routes: Vec<(Served, &str)> = texts
                .iter()
                .filter(|text| Pattern::parse(text).is_ok())
                .map(|text| (Served::Any, text.as_str()))
                .collect();
            let trees = trees(&routes);
            for (index, (_, text)) in routes.iter().enumerate() {
                let pattern = Pattern::parse(text).unwrap();
                let covers = |newer: &str| Pattern::parse(newer).unwrap().excludes(&pattern);
                if !routes[index + 1..].iter().any(|(_, newer)| covers(newer)) {
                    let found = at(&trees, Method::GET, &path_of(text));
                    prop_assert_eq!(found.map(|(index, _)| index), Some(index), "{} in {:?}", text, routes);
                }
            }
        }
    }
}
