//! What the service does, by what is seen of its process and of its answer.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::host::running::Seen;
use crate::sample::Cause;
use crate::source::http;

/// What the service does, as far as process and answer tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Alive, young, and never answered.
    Starting,
    /// Alive, and refuses since a moment ago.
    ShuttingDown,
    /// Alive or listening, and does not answer.
    Stalled,
    Down,
    /// No process seen, and the API could not be asked.
    Unknown,
}

impl Status {
    pub const ALL: [Status; 6] =
        [Status::Ok, Status::Starting, Status::ShuttingDown, Status::Stalled, Status::Down, Status::Unknown];

    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Starting => "starting",
            Status::ShuttingDown => "shutting_down",
            Status::Stalled => "stalled",
            Status::Down => "down",
            Status::Unknown => "unknown",
        }
    }
}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Whether the host's process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sight {
    Found,
    /// We see all processes, and it is none of them.
    Absent,
    /// It may be one that we cannot see, or cannot tell apart.
    Unseen,
    /// We may not read what would tell.
    Denied,
}

impl Sight {
    pub fn of(seen: &Seen) -> Sight {
        match seen {
            Seen::Running(_) => Sight::Found,
            Seen::Absent => Sight::Absent,
            Seen::Unseen(why) if why.cause == Cause::Denied => Sight::Denied,
            Seen::Unseen(_) => Sight::Unseen,
        }
    }

    pub fn is_sure(self) -> bool {
        matches!(self, Sight::Found | Sight::Absent)
    }
}

pub type Asked = Result<http::Head, Fault>;

/// Why nobody answered, or not the host.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    Unanswered(http::Error),
    /// What was answered is not what this kind of host answers.
    Wrong(String),
}

impl From<http::Error> for Fault {
    fn from(error: http::Error) -> Fault {
        match error {
            // A body is read only where it must show that it is the host's: one that does not end shows another.
            http::Error::TooLarge => Fault::Wrong(error.to_string()),
            error => Fault::Unanswered(error),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unanswered(error) => error.fmt(f),
            Fault::Wrong(why) => f.write_str(why),
        }
    }
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Answered,
    /// Nobody listens.
    Refused,
    /// Somebody listens and gives no HTTP answer in time.
    Silent,
    /// Somebody answers who is not it: that it is young does not excuse that.
    Wrong,
    /// We could not ask: the name or the route is missing.
    NotAsked,
}

impl Reply {
    /// A full backlog of a hung host also makes connecting time out, so that counts as silence.
    pub fn of(asked: &Asked) -> Reply {
        let error = match asked {
            // A proxy's word that nobody behind it answers; 503 may be the host's own, and then it is JSON.
            Ok(http::Head { status: 502 | 504, .. } | http::Head { status: 503, is_json: false, .. }) => {
                return Reply::Silent;
            }
            Ok(_) => return Reply::Answered,
            Err(Fault::Wrong(_)) => return Reply::Wrong,
            Err(Fault::Unanswered(error)) => error,
        };
        match error {
            http::Error::Refused => Reply::Refused,
            http::Error::TimedOut { .. } | http::Error::Broken(_) | http::Error::Tls(_) | http::Error::TooLarge => {
                Reply::Silent
            }
            http::Error::Unreachable(_) | http::Error::Unresolved(_) => Reply::NotAsked,
        }
    }
}

/// How long this start has lived, and when it last answered.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub started: Timestamp,
    pub age: Duration,
    pub answered_ago: Option<Duration>,
}

/// How long one that answered may refuse before its stop is called a stall; pynchy takes 12 s.
pub const SHUTDOWN: Duration = Duration::from_secs(30);

/// The status; `life` is there iff the process is. `is_booting`: the grace of this start and of those before it that came to
/// nothing is not used up.
pub fn decide(sight: Sight, reply: Reply, life: Option<Life>, is_booting: bool) -> Status {
    match (reply, life) {
        (Reply::Answered, _) => Status::Ok,
        (_, Some(life)) => decide_alive(reply, life, is_booting),
        (Reply::Silent | Reply::Wrong, None) => Status::Stalled,
        (Reply::Refused, None) => Status::Down,
        // That we see no process proves something only where we see all of them.
        (Reply::NotAsked, None) if sight == Sight::Absent => Status::Down,
        (Reply::NotAsked, None) => Status::Unknown,
    }
}

/// Of a host without an API its process is all that there is.
pub fn decide_unasked(sight: Sight) -> Status {
    match sight {
        Sight::Found => Status::Ok,
        Sight::Absent => Status::Down,
        Sight::Unseen | Sight::Denied => Status::Unknown,
    }
}

pub fn decide_alive(reply: Reply, life: Life, is_booting: bool) -> Status {
    match life.answered_ago {
        None if is_booting && reply != Reply::Wrong => Status::Starting,
        Some(ago) if reply == Reply::Refused && ago <= SHUTDOWN => Status::ShuttingDown,
        _ => Status::Stalled,
    }
}
