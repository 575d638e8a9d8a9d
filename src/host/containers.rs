//! How a host names its containers: which are its agents', which its gateway, its database, its MCP servers. Data.
//!
//! No host labels its containers, so the image and the name are all there is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a container is to its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Works for a group, and stays for its next message.
    Agent,
    /// Works at one scheduled task.
    Scheduled,
    Gateway,
    Database,
    Mcp,
}

impl Role {
    pub const ALL: [Role; 5] = [Role::Agent, Role::Scheduled, Role::Gateway, Role::Database, Role::Mcp];

    pub fn name(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Scheduled => "scheduled",
            Role::Gateway => "gateway",
            Role::Database => "database",
            Role::Mcp => "mcp",
        }
    }

    /// Whether it does a group's work.
    pub fn is_agent(self) -> bool {
        matches!(self, Role::Agent | Role::Scheduled)
    }
}

impl Serialize for Role {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One container's place in its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub role: Role,
    /// The group's folder as it stands in the name, or the MCP server; else the name itself.
    pub group: Arc<str>,
    /// Whether the name has a group in it.
    pub has_group: bool,
}

/// The rules of one host; the first that fits decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// The image that it must have, without registry and tag.
    image: Option<&'static str>,
    name: Pattern,
    role: Role,
}

impl Names {
    /// The image goes first: the folder of a group may be called `litellm` or `mcp-web`. Behind the rest, whatever its
    /// image: pynchy itself takes every container of these names for its own, and stops it when it starts.
    pub fn pynchy() -> Names {
        let rules = [
            (Some("pynchy-agent"), "pynchy-{group}-{epoch}", Role::Scheduled),
            (Some("pynchy-agent"), "pynchy-{group}", Role::Agent),
            (None, "pynchy-litellm", Role::Gateway),
            (None, "pynchy-litellm-db", Role::Database),
            (None, "pynchy-mcp-{group}_{hash}", Role::Mcp),
            (None, "pynchy-mcp-{group}", Role::Mcp),
            (None, "pynchy-{group}-{epoch}", Role::Scheduled),
            (None, "pynchy-{group}", Role::Agent),
        ];
        let rule = |(image, name, role): (_, &str, _)| Rule {
            image,
            name: name.parse().expect("a pattern of our own, which a test reads"),
            role,
        };
        Names(rules.map(rule).into())
    }

    /// With more names of agents' containers, which go before the others.
    pub fn with_agents(self, names: &[Pattern]) -> Names {
        let rules = names.iter().map(|name| Rule { image: None, name: name.clone(), role: Role::Agent });
        Names(rules.chain(self.0).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The roles that a container can have here, in the order of `Role::ALL`.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(|&role| self.0.iter().any(|rule| rule.role == role))
    }

    /// Whether a container of this name can be the host's, whatever its image.
    pub fn might_be(&self, name: &str) -> bool {
        self.0.iter().any(|rule| rule.name.fits(name).is_some())
    }

    /// What the names begin with of all that can be the host's.
    pub fn beginnings(&self) -> Vec<&str> {
        let mut beginnings: Vec<&str> = self.0.iter().map(|rule| rule.name.beginning()).collect();
        beginnings.sort_unstable();
        beginnings.dedup();
        beginnings
    }

    /// What the container is to the host. An image that is not known fits no rule that asks for one.
    pub fn classify(&self, name: &str, image: Option<&str>) -> Option<Member> {
        let fits = |rule: &Rule| {
            let known = rule.image.is_none_or(|wanted| image.is_some_and(|image| is_called(image, wanted)));
            let group = rule.name.fits(name).filter(|_| known)?;
            Some(Member { role: rule.role, group: group.into(), has_group: rule.name.has_group() })
        };
        self.0.iter().find_map(fits)
    }
}

/// Whether an image is of this name: `registry:5000/team/pynchy-agent:latest` is a `pynchy-agent`.
fn is_called(image: &str, wanted: &str) -> bool {
    let name = image.split('@').next().unwrap_or(image);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.split(':').next() == Some(wanted)
}

/// A group's folder as it stands in the name of its container.
pub fn as_named(folder: &str) -> String {
    folder.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect()
}

/// The pattern of a container's name: letters, with `{group}` for the group's name, `{epoch}` for the milliseconds since
/// 1970, `{hash}` for six hex digits, and `*` for anything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Letters(String),
    Group,
    Epoch,
    Hash,
    Any,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPattern(&'static str);

impl fmt::Display for NoPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a pattern like `nanoclaw-{{group}}-{{epoch}}`: {}", self.0)
    }
}

impl std::error::Error for NoPattern {}

impl TryFrom<String> for Pattern {
    type Error = NoPattern;

    fn try_from(text: String) -> Result<Pattern, NoPattern> {
        text.parse()
    }
}

impl FromStr for Pattern {
    type Err = NoPattern;

    fn from_str(text: &str) -> Result<Pattern, NoPattern> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (part, behind) = Part::read(rest)?;
            parts.push(part);
            rest = behind;
        }
        if !matches!(parts.first(), Some(Part::Letters(_))) {
            return Err(NoPattern("it must begin with letters, or it would take in every container there is"));
        }
        if parts.iter().filter(|part| **part == Part::Group).count() > 1 {
            return Err(NoPattern("`{group}` stands in it twice"));
        }
        Ok(Pattern(parts))
    }
}

impl Part {
    /// The first part of a text, and what follows it.
    fn read(text: &str) -> Result<(Part, &str), NoPattern> {
        for (word, part) in
            [("{group}", Part::Group), ("{epoch}", Part::Epoch), ("{hash}", Part::Hash), ("*", Part::Any)]
        {
            if let Some(rest) = text.strip_prefix(word) {
                return Ok((part, rest));
            }
        }
        let is_of_names = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
        let end = text.find(|letter| !is_of_names(letter)).unwrap_or(text.len());
        match text.split_at(end) {
            ("", _) => Err(NoPattern(
                "beside letters, digits, `_`, `.` and `-` it may have `{group}`, `{epoch}`, `{hash}`, `*`",
            )),
            (letters, rest) => Ok((Part::Letters(letters.to_owned()), rest)),
        }
    }

    /// The lengths that it can have at the beginning of a text, the longest first.
    fn lengths(&self, text: &str) -> Vec<usize> {
        let leading = |fits: fn(&u8) -> bool| text.bytes().take_while(fits).count();
        match self {
            Part::Letters(letters) => text.starts_with(letters.as_str()).then_some(letters.len()).into_iter().collect(),
            // Ten digits are seconds, thirteen milliseconds.
            Part::Epoch => Some(leading(u8::is_ascii_digit)).filter(|&count| count >= 10).into_iter().collect(),
            Part::Hash => (leading(u8::is_ascii_hexdigit) >= 6).then_some(6).into_iter().collect(),
            Part::Group => (1..=text.len()).rev().collect(),
            Part::Any => (0..=text.len()).rev().collect(),
        }
    }
}

impl Pattern {
    fn beginning(&self) -> &str {
        match self.0.first() {
            Some(Part::Letters(letters)) => letters,
            _ => "",
        }
    }

    fn has_group(&self) -> bool {
        self.0.contains(&Part::Group)
    }

    /// What stands for the group, or the whole name where the pattern has none; `None` if the name does not fit.
    fn fits<'n>(&self, name: &'n str) -> Option<&'n str> {
        // What Docker allows in a name is ASCII, so it can be cut anywhere.
        let is_name = name.is_ascii() && name.len() <= LONGEST;
        let mut vain = vec![false; if is_name { (self.0.len() + 1) * (name.len() + 1) } else { 0 }];
        is_name.then(|| fit(&self.0, name, &mut vain, name.len() + 1))?.map(|group| group.unwrap_or(name))
    }
}

/// A longer name is none that a host gives.
const LONGEST: usize = 255;

/// `vain`: by how many parts and letters are left, whether they do not fit; `width` of the latter for each of the former. Without
/// that, ten `*` would try each of all ways to cut a name in ten.
fn fit<'n>(parts: &[Part], text: &'n str, vain: &mut [bool], width: usize) -> Option<Option<&'n str>> {
    let left = parts.len() * width + text.len();
    let Some((part, parts)) = parts.split_first() else {
        return text.is_empty().then_some(None);
    };
    if vain[left] {
        return None;
    }
    let fits = part.lengths(text).into_iter().find_map(|length| {
        let (own, rest) = text.split_at(length);
        fit(parts, rest, vain, width).map(|group| if *part == Part::Group { Some(own) } else { group })
    });
    if fits.is_none() {
        vain[left] = true;
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pynchy(name: &str, image: Option<&str>) -> Option<(Role, String)> {
        let names = Names::pynchy();
        let member = names.classify(name, image);
        assert!(member.is_none() || names.might_be(name), "{name}");
        member.map(|member| (member.role, member.group.to_string()))
    }

    #[test]
    fn the_image_goes_before_the_name() {
        let agent = Some("pynchy-agent:latest");
        for (name, image, role, group) in [
            ("pynchy-admin-1", agent, Role::Agent, "admin-1"),
            ("pynchy-admin-1-1795307730123", agent, Role::Scheduled, "admin-1"),
            // Four digits are no epoch.
            ("pynchy-admin-2026", agent, Role::Agent, "admin-2026"),
            ("pynchy-litellm", agent, Role::Agent, "litellm"),
            ("pynchy-litellm", Some("ghcr.io/berriai/litellm:main"), Role::Gateway, "pynchy-litellm"),
            ("pynchy-litellm", None, Role::Gateway, "pynchy-litellm"),
            ("pynchy-litellm-db", Some("postgres:16"), Role::Database, "pynchy-litellm-db"),
            ("pynchy-mcp-web", agent, Role::Agent, "mcp-web"),
            ("pynchy-mcp-web", Some("web:1"), Role::Mcp, "web"),
            ("pynchy-mcp-web_0a1b2c", Some("web:1"), Role::Mcp, "web"),
            ("pynchy-mcp-web_0a1b2", Some("web:1"), Role::Mcp, "web_0a1b2"),
            ("pynchy-mcp-a_0a1b2c_3d4e5f", None, Role::Mcp, "a_0a1b2c"),
            // The tag was moved to another image, and the old one told by its sum.
            ("pynchy-family", Some("sha256:a94564b1"), Role::Agent, "family"),
            ("pynchy-family-1795307730123", Some("claw-agent"), Role::Scheduled, "family"),
        ] {
            assert_eq!(pynchy(name, image), Some((role, group.to_owned())), "{name} of {image:?}");
        }
        for name in ["pynchy", "pynchy-", "my-pynchy-family", "litellm", "", "pynchyfamily", "nanoclaw-x-1795307730123"]
        {
            assert_eq!(pynchy(name, agent), None, "{name}");
        }
    }

    #[test]
    fn an_image_is_called_by_the_last_word_before_its_tag() {
        for image in ["pynchy-agent", "pynchy-agent:v2", "reg:5000/team/pynchy-agent", "pynchy-agent@sha256:00"] {
            assert!(is_called(image, "pynchy-agent"), "{image}");
        }
        for image in ["pynchy-agent-x", "pynchy-agent/x", "my-pynchy-agent", "sha256:pynchy-agent", ""] {
            assert!(!is_called(image, "pynchy-agent"), "{image}");
        }
    }

    #[test]
    fn other_hosts_are_told_by_patterns() {
        let names =
            Names::default().with_agents(&["nanoclaw-{group}-{epoch}".parse().unwrap(), "claw*".parse().unwrap()]);
        let group = |name: &str| names.classify(name, None).map(|member| member.group.to_string());
        assert_eq!(group("nanoclaw-family-chat-1795307730123").as_deref(), Some("family-chat"));
        assert_eq!(group("nanoclaw-family"), None);
        assert_eq!(group("claw-7").as_deref(), Some("claw-7"), "without a group the name stands for it");
        let has_group = |name: &str| names.classify(name, None).unwrap().has_group;
        assert!(has_group("nanoclaw-family-chat-1795307730123") && !has_group("claw-7"));
        assert_eq!(names.roles().collect::<Vec<_>>(), [Role::Agent]);
        assert_eq!(Names::pynchy().with_agents(&["x".parse().unwrap()]).classify("x", None).unwrap().role, Role::Agent);
        assert_eq!(names.beginnings(), ["claw", "nanoclaw-"]);
        let stars: Pattern = format!("a{}*c", "*b".repeat(12)).parse().unwrap();
        assert!(
            stars.fits(&format!("a{}", "b".repeat(250))).is_none(),
            "in no more time than it has letters and parts"
        );
        assert!(stars.fits(&format!("a{}c", "b".repeat(250))).is_some());
        assert!(Names::default().is_empty() && !Names::default().might_be("x"));
    }

    #[test]
    fn patterns_that_would_take_in_too_much_or_nothing_are_refused() {
        for (text, says) in [
            ("", "must begin with letters"),
            ("*", "must begin with letters"),
            ("{group}-x", "must begin with letters"),
            ("x-{group}-{group}", "twice"),
            ("x-{folder}", "it may have"),
            ("x y", "it may have"),
            ("/x", "it may have"),
        ] {
            let said = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }

    #[test]
    fn a_folder_is_found_in_the_name_of_its_container() {
        assert_eq!(as_named("admin_1.x y"), "admin-1-x-y");
        assert_eq!(as_named("slack:C0"), "slack-C0");
    }
}
