//! Who may read: users with passwords, and holders of a token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hyper::header::{AUTHORIZATION, COOKIE, HeaderMap};
use percent_encoding::percent_decode_str;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

/// A digest that takes longer than some seconds would hold up everyone else.
const DEAREST: u32 = 16;
/// So many passwords at once wait to be compared; who comes then is told to come again.
const WAITING: usize = 32;
/// So many passwords that were right are remembered.
const REMEMBERED: usize = 100;

/// Whom a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Known,
    /// It shows nothing, or nothing that is right.
    Stranger,
    /// Too many passwords are being compared.
    Unheard,
}

/// Who may come, and what was found out about those that came.
pub struct Auth {
    users: BTreeMap<String, String>,
    token: Option<Token>,
    /// Compared for a user that there is not, so that nobody can tell by the time it takes.
    nobody: String,
    /// Of this process alone: what is remembered is no password.
    key: hmac::Key,
    /// With the digests that they fitted: another digest of a user makes them worth nothing.
    right: ArcSwap<BTreeSet<[u8; 32]>>,
    /// One password at a time: whoever tries many has one core, not all.
    comparing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// What scripts and the page show.
struct Token {
    text: String,
    /// What its holder's browser shows instead, and by which name: another token makes others. The port tells no cookies
    /// apart, and there may be two of us on one machine.
    cookie: String,
    name: String,
}

impl Auth {
    /// Without users and without a token everybody may. What `old` found to be right needs no comparison again.
    ///
    /// # Errors
    /// A digest is none, or too dear, or the token is none; the message quotes neither.
    pub fn new(users: BTreeMap<String, String>, token: Option<&str>, old: Option<&Auth>) -> Result<Auth> {
        let mut cost = 4;
        for (name, digest) in &users {
            let parts = digest.parse::<bcrypt::HashParts>().ok();
            let parts = parts.with_context(|| format!("basic_auth_users: `{name}` has no bcrypt digest"))?;
            ensure!(
                (4..=DEAREST).contains(&parts.get_cost()),
                "basic_auth_users: the digest of `{name}` has a cost of {}: from 4 to {DEAREST} can be had",
                parts.get_cost()
            );
            cost = cost.max(parts.get_cost());
        }
        let key = match old {
            Some(old) => old.key.clone(),
            None => {
                let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
                key.ok().context("the machine gives no random numbers")?
            }
        };
        Ok(Auth {
            users,
            token: token.map(Token::new).transpose()?,
            nobody: format!("$2b${cost:02}${}", ".".repeat(53)),
            key,
            right: old.map_or_else(ArcSwap::default, |old| ArcSwap::new(old.right.load_full())),
            comparing: Arc::new(Semaphore::new(1)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        })
    }

    /// Whether anything has to be shown at all.
    pub fn is_needed(&self) -> bool {
        self.token.is_some() || !self.users.is_empty()
    }

    /// What a client may show, as `WWW-Authenticate` says it.
    pub fn challenge(&self) -> &'static str {
        match self.users.is_empty() {
            false => "Basic realm=\"agenthost-exporter\", charset=\"UTF-8\"",
            true => "Bearer realm=\"agenthost-exporter\"",
        }
    }

    /// Whom these headers are from.
    pub async fn caller(&self, headers: &HeaderMap) -> Caller {
        match (self.knows(headers), user(headers)) {
            (true, _) => Caller::Known,
            (false, Some((user, password))) => self.compare(user, password).await,
            (false, None) => Caller::Stranger,
        }
    }

    /// Whether they are from somebody who needs no comparison: it takes no time.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        let remembers = |(user, password): (String, Vec<u8>)| {
            self.right.load().contains(&self.mark(&user, self.digest(&user), &password))
        };
        !self.is_needed()
            || self.has_cookie(headers)
            || shown(headers, "bearer").is_some_and(|token| self.is_token(token))
            || user(headers).is_some_and(remembers)
    }

    /// The cookie for whoever comes with this token in a query; `None` if it is not the token.
    pub fn cookie_for(&self, token: &str) -> Option<String> {
        let token = percent_decode_str(token).decode_utf8().ok()?;
        let own = self.token.as_ref().filter(|_| self.is_token(&token))?;
        Some(format!("{}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000", own.name, own.cookie))
    }

    fn is_token(&self, shown: &str) -> bool {
        self.token.as_ref().is_some_and(|token| self.are_equal(&token.text, shown))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return false };
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == token.name && self.are_equal(&token.cookie, value))
    }

    /// In a time that tells nothing of where they differ.
    fn are_equal(&self, own: &str, shown: &str) -> bool {
        hmac::verify(&self.key, shown.as_bytes(), hmac::sign(&self.key, own.as_bytes()).as_ref()).is_ok()
    }

    fn digest(&self, user: &str) -> &str {
        self.users.get(user).unwrap_or(&self.nobody)
    }

    async fn compare(&self, user: String, password: Vec<u8>) -> Caller {
        let digest = self.digest(&user).to_owned();
        let mark = self.mark(&user, &digest, &password);
        let Ok(_waiting) = self.waiting.try_acquire() else { return Caller::Unheard };
        // The permit is the thread's: it works on when the client has gone.
        let Ok(turn) = self.comparing.clone().acquire_owned().await else { return Caller::Unheard };
        let comparing = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            bcrypt::verify(password, &digest).unwrap_or(false)
        });
        match comparing.await {
            Ok(true) if self.users.contains_key(&user) => {
                self.remember(mark);
                Caller::Known
            }
            _ => Caller::Stranger,
        }
    }

    fn mark(&self, user: &str, digest: &str, password: &[u8]) -> [u8; 32] {
        let mut marking = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), digest.as_bytes(), password] {
            marking.update(&part.len().to_le_bytes());
            marking.update(part);
        }
        let mut mark = [0; 32];
        mark.copy_from_slice(marking.sign().as_ref());
        mark
    }

    fn remember(&self, mark: [u8; 32]) {
        self.right.rcu(|right| {
            let mut right = if right.len() < REMEMBERED { BTreeSet::clone(right) } else { BTreeSet::new() };
            right.insert(mark);
            right
        });
    }
}

impl Token {
    fn new(text: &str) -> Result<Token> {
        let text = text.trim();
        ensure!(!text.is_empty(), "the token file is empty");
        ensure!(
            text.chars().all(|letter| letter.is_ascii_graphic()),
            "the token has characters that no header can have"
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let told = |of: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, of));
        let (cookie, name) = (told(b"agenthost-exporter: cookie"), told(b"agenthost-exporter: name"));
        Ok(Token { text: text.to_owned(), cookie, name: format!("agenthost_{}", &name[..8]) })
    }
}

/// What an `Authorization` header of this scheme has.
fn shown<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (own, shown) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    own.eq_ignore_ascii_case(scheme).then_some(shown.trim())
}

fn user(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let mut bytes = BASE64_STANDARD.decode(shown(headers, "basic")?).ok()?;
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let password = bytes.split_off(colon + 1);
    bytes.pop();
    Some((String::from_utf8(bytes).ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    fn auth(users: &[(&str, &str)], token: Option<&str>) -> Auth {
        let users = users.iter().map(|(name, password)| ((*name).to_owned(), digest(password))).collect();
        Auth::new(users, token, None).unwrap()
    }

    fn caller(auth: &Auth, headers: &[(&str, String)]) -> Caller {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let named = |(name, value): &(&str, String)| {
            (hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap())
        };
        runtime.block_on(auth.caller(&headers.iter().map(named).collect()))
    }

    fn with(user: &str, password: &str) -> Vec<(&'static str, String)> {
        vec![("authorization", format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))]
    }

    #[test]
    fn users_come_with_their_own_password_alone() {
        let auth = auth(&[("alice", "one:two"), ("bob", "")], None);
        for _ in 0..2 {
            assert_eq!(caller(&auth, &with("alice", "one:two")), Caller::Known);
            assert_eq!(caller(&auth, &with("bob", "")), Caller::Known);
        }
        assert_eq!(auth.right.load().len(), 2, "what was right is remembered");
        for (user, password) in [("alice", ""), ("alice", "one"), ("bob", "one:two"), ("carol", "one:two"), ("", "")] {
            assert_eq!(caller(&auth, &with(user, password)), Caller::Stranger, "{user} {password}");
        }
        assert_eq!(auth.right.load().len(), 2, "... and what was wrong is not");
        for value in ["", "Basic", "Basic !", "Basic YWxpY2U=", "Bearer one:two", "Digest x", "basic"] {
            assert_eq!(caller(&auth, &[("authorization", value.to_owned())]), Caller::Stranger, "{value}");
        }
        assert_eq!(caller(&auth, &[]), Caller::Stranger);
        assert!(auth.challenge().starts_with("Basic ") && auth.cookie_for("x").is_none());
    }

    #[test]
    fn nobodys_digest_can_be_compared_and_fits_no_password() {
        let cheap = auth(&[("alice", "x")], None);
        assert_eq!(bcrypt::verify("", &cheap.nobody).ok(), Some(false));
        assert_eq!(cheap.nobody.parse::<bcrypt::HashParts>().unwrap().get_cost(), 4);
        let dear = BTreeMap::from([("alice".to_owned(), digest("x").replace("$04$", "$12$"))]);
        let dear = Auth::new(dear, None, None).unwrap();
        assert_eq!(dear.nobody.parse::<bcrypt::HashParts>().unwrap().get_cost(), 12, "as dear as the dearest");
    }

    #[test]
    fn a_token_comes_as_a_header_or_for_a_cookie() {
        let auth = auth(&[], Some(" t0ken/+ \n"));
        let bearer = |shown: &str| caller(&auth, &[("authorization", shown.to_owned())]);
        assert_eq!([bearer("Bearer t0ken/+"), bearer("bearer  t0ken/+")], [Caller::Known; 2]);
        assert_eq!([bearer("Bearer t0ken"), bearer("Bearer "), bearer("Basic t0ken/+")], [Caller::Stranger; 3]);
        assert!(auth.cookie_for("t0ken").is_none() && auth.challenge().starts_with("Bearer "));
        let cookie = auth.cookie_for("t0ken%2F%2B").unwrap();
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Strict"), "{attributes}");
        assert!(!cookie.contains("t0ken"), "{cookie}");
        let shown = |line: String| caller(&auth, &[("cookie", line)]);
        assert_eq!(shown(format!("a=b; {pair}; c=d")), Caller::Known);
        assert_eq!(shown(format!("{pair}x")), Caller::Stranger);
        let name = pair.split_once('=').unwrap().0;
        assert_eq!(shown(format!("{name}=t0ken/+")), Caller::Stranger, "a cookie is not the token");
        let other = Auth::new(BTreeMap::new(), Some("other"), None).unwrap();
        assert!(!other.cookie_for("other").unwrap().starts_with(name), "two on one machine");
        assert_ne!(other.cookie_for("other"), Some(cookie), "another token, another cookie");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_not_quoted() {
        let said = |digest: &str, token: Option<&str>| {
            let users = BTreeMap::from([("alice".to_owned(), digest.to_owned())]);
            Auth::new(users, token, None).err().map(|error| format!("{error:#}")).unwrap_or_default()
        };
        for digest in ["s3cret", "", "$1$s3cret", "{SHA}s3cret", "$2b$10$s3cret"] {
            let said = said(digest, None);
            assert!(said.contains("`alice` has no bcrypt digest") && !said.contains("s3cret"), "{said}");
        }
        let dear = digest("x").replace("$04$", "$31$");
        assert!(said(&dear, None).contains("a cost of 31"), "{}", said(&dear, None));
        assert!(said(&digest("x"), Some(" \n")).contains("empty"));
        assert!(said(&digest("x"), Some("s3cret s3cret")).contains("characters"));
        assert_eq!(said(&digest("x").replace("$2b$", "$2y$"), None), "", "as htpasswd writes it");
    }

    #[test]
    fn a_reload_forgets_only_those_whose_digest_is_another() {
        let old = auth(&[("alice", "one"), ("bob", "two")], None);
        for (user, password) in [("alice", "one"), ("bob", "two")] {
            assert_eq!(caller(&old, &with(user, password)), Caller::Known);
        }
        let users = BTreeMap::from([
            ("alice".to_owned(), old.users["alice"].clone()),
            ("bob".to_owned(), digest("two")),
            ("carol".to_owned(), old.users["bob"].clone()),
        ]);
        let new = Auth::new(users, None, Some(&old)).unwrap();
        let knows = |user, password| {
            let (_, value) = with(user, password).remove(0);
            new.knows(&[(AUTHORIZATION, value.parse().unwrap())].into_iter().collect())
        };
        assert_eq!([knows("alice", "one"), knows("bob", "two"), knows("carol", "two")], [true, false, false]);
        assert!(!knows("alice", "two") && !knows("alice", ""));
    }

    #[test]
    fn nothing_is_needed_where_nothing_is_said() {
        let auth = auth(&[], None);
        assert!(!auth.is_needed() && caller(&auth, &[]) == Caller::Known);
    }
}
