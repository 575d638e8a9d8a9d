//! Numbers of a host that no profile knows: what JSON endpoints say, by pointer and by a table of words
//! (`[[collect.http]]`). What they say of channels and the queue, the collectors of these show.
//!
//! All endpoints are asked at once: one that hangs makes its own values unknown, and no other's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::collect::host_api::HostApi;
use crate::collect::{Collector, NOTHING, Needs};
use crate::fact::{Check, Fact};
use crate::host::Host;
use crate::host::generic::Endpoint;
use crate::sample::{self, Now, Points};
use crate::source::Sources;

/// The list stands in the host, as others read it too.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.http`: by name of the endpoint.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Section {
    endpoints: BTreeMap<Arc<str>, Said>,
}

/// What an endpoint says.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Said {
    /// Why nothing is known.
    error: Option<String>,
    #[serde(skip)]
    is_denied: bool,
    /// Null where no number stands, nor a word that means one.
    values: BTreeMap<Arc<str>, Option<f64>>,
}

static VALUE: Fact = Fact::gauge(
    "agenthost.http.value",
    "agenthost_http_value",
    "A number that an endpoint of `[[collect.http]]` says, by the name that it has there; absent while none is said.",
)
.of(&["endpoint", "name"]);

/// The endpoints that have values.
pub struct Http {
    endpoints: Vec<Endpoint>,
    sources: Sources,
    run: Duration,
}

impl Collector for Http {
    const NAME: &'static str = "http";
    const EVERY: Duration = Duration::from_secs(30);
    const LISTED: bool = true;
    const FACTS: &'static [&'static Fact] = &[&VALUE];
    const CHECKS: &'static [Check] = &[];
    const NEEDS: Needs = Needs {
        reads: "the endpoints of `[[collect.http]]`",
        fix: "name the file with the token that the endpoint wants, with `token_file` in that `[[collect.http]]`, and let us read it",
        costs: "one request for each",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, sources: &Sources) -> Result<Option<Http>> {
        let endpoints: Vec<_> =
            host.listed.http.iter().filter(|endpoint| !endpoint.values.is_empty()).cloned().collect();
        let http = |endpoints| Http { endpoints, sources: sources.clone(), run: Http::TIMEOUT };
        Ok((!endpoints.is_empty()).then(|| http(endpoints)))
    }

    fn within(&mut self, timeout: Duration) {
        self.run = timeout;
    }

    /// # Errors
    /// None of them answered: the first one's reason.
    async fn collect(&mut self, now: Now) -> Result<Section> {
        let asked = ask_all(&self.endpoints, &self.sources, self.run, now).await;
        let (endpoints, errors): (BTreeMap<_, _>, Vec<_>) = said(&self.endpoints, asked);
        match errors.into_iter().next() {
            Some(error) if endpoints.values().all(|said: &Said| said.error.is_some()) => Err(error),
            _ => Ok(Section { endpoints }),
        }
    }

    fn gaps(section: &Section) -> Vec<String> {
        let denied = section.endpoints.iter().filter(|(_, said)| said.is_denied);
        denied.filter_map(|(name, said)| Some(format!("{name}: {}", said.error.as_ref()?))).collect()
    }

    fn points(section: &Section, points: &mut Points) {
        for (endpoint, said) in &section.endpoints {
            for (name, value) in &said.values {
                points.put(&VALUE, [endpoint, name], *value);
            }
        }
    }
}

/// What each says, and why some say nothing.
fn said(endpoints: &[Endpoint], asked: Vec<Result<Value>>) -> (BTreeMap<Arc<str>, Said>, Vec<anyhow::Error>) {
    let mut errors = Vec::new();
    let one = |(endpoint, answer): (&Endpoint, Result<Value>)| {
        let number = |pointer| endpoint.number(pointer, answer.as_ref().ok()?);
        let values = endpoint.values.iter().map(|(name, pointer)| (name.0.clone(), number(pointer))).collect();
        let error = answer.as_ref().err().map(|error| format!("{error:#}"));
        let is_denied = answer.as_ref().is_err_and(sample::is_denied);
        errors.extend(answer.err());
        (endpoint.name.0.clone(), Said { error, is_denied, values })
    };
    (endpoints.iter().zip(asked).map(one).collect(), errors)
}

/// Asks all endpoints at once; the answers are in their order.
pub async fn ask_all(endpoints: &[Endpoint], sources: &Sources, run: Duration, now: Now) -> Vec<Result<Value>> {
    let mut asking = JoinSet::new();
    for (place, endpoint) in endpoints.iter().enumerate() {
        let mut api = HostApi::of_endpoint(endpoint, sources);
        api.within(run);
        asking.spawn(async move { (place, api.endpoint(now).await) });
    }
    let mut answers: Vec<_> = asking.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::fixture::api::{Api, Say};
    use crate::collect::fixture::{self, at, value};
    use crate::sample::{Cause, Failure};
    use serde_json::json;

    fn endpoint(name: &str, url: &str, values: &str) -> Endpoint {
        let text = format!("name = \"{name}\"\nurl = \"{url}\"\nvalues = {values}\nstates = {{ busy = 1, idle = 0 }}");
        toml::from_str(&text).unwrap()
    }

    fn collector(endpoints: Vec<Endpoint>) -> Http {
        let mut host = fixture::host(None);
        host.listed.http = endpoints;
        let mut http = Http::new(Config {}, &host, &Sources::default()).unwrap().unwrap();
        http.within(Duration::from_secs(2));
        http
    }

    fn look(http: &mut Http, time: &str) -> Result<Section> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(http.collect(at(time)))
    }

    #[test]
    fn values_are_found_by_pointer_and_what_does_not_stand_there_is_not_known() {
        let api = Api::new();
        api.json("/s?key=s3cret", json!({"sessions": {"count": 3}, "mode": "busy", "text": "a secret"}));
        let url = format!("{}/s?key=s3cret", api.url);
        let values = "{ sessions = \"/sessions/count\", mode = \"/mode\", text = \"/text\", gone = \"/gone\" }";
        let mut http = collector(vec![endpoint("main", &url, values)]);
        let section = look(&mut http, "20:00:00").unwrap();
        let expected =
            json!({"main": {"error": null, "values": {"sessions": 3.0, "mode": 1.0, "text": null, "gone": null}}});
        assert_eq!(fixture::json::<Http>(&section), expected);
        let points = fixture::points::<Http>(&section);
        for (name, known) in [("sessions", Some(3.0)), ("mode", Some(1.0)), ("text", None), ("gone", None)] {
            assert_eq!(value(&points, &VALUE, &format!("main/{name}")), Some(known), "{name}");
        }
        api.say("/s?key=s3cret", Say::Status(500));
        let text = format!("{:#}", look(&mut http, "20:01:00").unwrap_err());
        assert_eq!(text, format!("ask {}/s: answered with status 500", api.url), "the query is not shown");
    }

    #[test]
    fn what_was_told_at_one_look_does_not_pass_for_what_is_seen_at_the_next() {
        let api = Api::new();
        let mut http = collector(vec![endpoint("a", &format!("{}/", api.url), "{ a = \"/a\" }")]);
        for (second, number) in [(0, 1.0), (1, 2.0), (2, 3.0)] {
            api.json("/", json!({"a": number}));
            let section = look(&mut http, &format!("20:00:0{second}")).unwrap();
            assert_eq!(value(&fixture::points::<Http>(&section), &VALUE, "a/a"), Some(Some(number)));
        }
    }

    #[test]
    fn one_that_hangs_is_unknown_and_costs_the_others_nothing() {
        let (api, hung) = (Api::new(), Api::new());
        api.json("/", json!({"a": 1}));
        hung.say("/", Say::Hang);
        let values = "{ a = \"/a\" }";
        let urls = [&hung, &api, &hung].map(|api| format!("{}/", api.url));
        let names = ["first", "second", "third"];
        let endpoints = names.into_iter().zip(&urls).map(|(name, url)| endpoint(name, url, values)).collect();
        let section = look(&mut collector(endpoints), "20:00:00").unwrap();
        let points = fixture::points::<Http>(&section);
        let known = names.map(|name| value(&points, &VALUE, &format!("{name}/a")).unwrap());
        assert_eq!(known, [None, Some(1.0), None]);
        assert!(section.endpoints["first"].error.as_ref().unwrap().ends_with("/: timed out"));
        assert_eq!(hung.asked("/"), 1, "both of one URL are one question");
    }

    #[test]
    fn without_any_answer_the_reading_fails_and_a_refusal_says_what_is_missing() {
        let api = Api::new();
        api.say("/", Say::Status(401));
        let mut http = collector(vec![endpoint("a", &format!("{}/", api.url), "{ a = \"/a\" }")]);
        let failure = Failure::from(look(&mut http, "20:00:00").unwrap_err());
        assert_eq!(failure.cause, Cause::Denied);
        assert!(failure.error.ends_with("name its file with `token_file` in its [[collect.http]]"), "{failure:?}");
    }

    #[test]
    fn without_values_there_is_nothing_to_collect() {
        let mut host = fixture::host(None);
        assert!(Http::new(Config {}, &host, &Sources::default()).unwrap().is_none());
        host.listed.http = vec![endpoint("a", "http://x", "{}")];
        assert!(Http::new(Config {}, &host, &Sources::default()).unwrap().is_none());
    }
}
