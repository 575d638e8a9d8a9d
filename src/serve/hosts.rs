//! By which names a request may call us, where only this machine can reach us: a page of a stranger whose name was made to
//! point here (DNS rebinding) calls us by that name.

use std::net::IpAddr;

use hyper::Request;
use hyper::http::uri::Authority;

use crate::show;

/// Names beside those that every loopback address has.
#[derive(Debug, Clone, Default)]
pub struct Hosts(pub Vec<String>);

impl Hosts {
    /// Whether a request calls us by a name that is ours. One that tells no name comes from no browser.
    pub fn know<B>(&self, request: &Request<B>) -> bool {
        match show::called(request).map(|name| name.map(str::parse::<Authority>)) {
            None => true,
            Some(Some(Ok(authority))) => self.knows(authority.host()),
            Some(_) => false,
        }
    }

    fn knows(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = bare.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        let lower = bare.trim_end_matches('.').to_ascii_lowercase();
        loopback
            || lower == "localhost"
            || lower.ends_with(".localhost")
            || self.0.iter().any(|own| own.eq_ignore_ascii_case(&lower))
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HOST;

    use super::*;

    fn know(host: Option<&str>) -> bool {
        let request = host.into_iter().fold(Request::get("/"), |request, host| request.header(HOST, host));
        Hosts(vec!["Agents.example".to_owned()]).know(&request.body(()).unwrap())
    }

    #[test]
    fn loopback_names_and_own_ones_are_known() {
        let own = [
            "localhost",
            "localhost:10484",
            "LOCALHOST.",
            "127.0.0.1:10484",
            "127.8.8.8",
            "[::1]:10484",
            "a.localhost",
        ];
        assert!(own.iter().chain(&["agents.example", "agents.example:80"]).all(|host| know(Some(host))));
        assert!(know(None));
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", "a b", "x@"]
        {
            assert!(!know(Some(host)), "{host}");
        }
    }
}
