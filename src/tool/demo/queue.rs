//! Who works and who waits: one desk for each group, and room for fewer agents than there are groups.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

use super::plan::GROUPS;

/// How many agents may run at once: one less than there are groups, so that some wait.
pub const MAX_CONCURRENT: usize = GROUPS.len() - 1;

/// What the agent of a group is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    Idle,
    Answering { begun: Timestamp },
    OnTask { begun: Timestamp },
    Hung,
}

/// A group as the queue sees it.
#[derive(Debug)]
pub struct Desk {
    pub agent: Agent,
    pub messages_wait: bool,
    /// Indices of tasks that are due, the oldest first.
    pub tasks_wait: VecDeque<usize>,
    waits_since: Option<Timestamp>,
}

impl Desk {
    const EMPTY: Desk =
        Desk { agent: Agent::Idle, messages_wait: false, tasks_wait: VecDeque::new(), waits_since: None };

    fn has_work(&self) -> bool {
        self.messages_wait || !self.tasks_wait.is_empty()
    }

    pub fn add_message(&mut self, at: Timestamp) {
        self.messages_wait = true;
        self.waits_since.get_or_insert(at);
    }

    /// A task that waits already is not added again.
    pub fn add_task(&mut self, task: usize, at: Timestamp) {
        if !self.tasks_wait.contains(&task) {
            self.tasks_wait.push_back(task);
            self.waits_since.get_or_insert(at);
        }
    }

    pub fn take_messages(&mut self) {
        self.messages_wait = false;
        self.waits_since = self.waits_since.filter(|_| self.has_work());
    }

    pub fn take_task(&mut self) -> Option<usize> {
        let task = self.tasks_wait.pop_front();
        self.waits_since = self.waits_since.filter(|_| self.has_work());
        task
    }

    /// The agent leaves; what it was at.
    pub fn end(&mut self) -> Agent {
        std::mem::replace(&mut self.agent, Agent::Idle)
    }

    fn slot(&self) -> Slot {
        Slot {
            active: self.agent != Agent::Idle,
            is_task: matches!(self.agent, Agent::OnTask { .. }),
            pending_messages: self.messages_wait,
            pending_tasks: self.tasks_wait.len(),
        }
    }
}

/// The desks, in the order of the groups.
#[derive(Debug)]
pub struct Desks(pub [Desk; GROUPS.len()]);

impl Desks {
    pub const EMPTY: Desks = Desks([Desk::EMPTY; GROUPS.len()]);

    fn active(&self) -> usize {
        self.0.iter().filter(|desk| desk.agent != Agent::Idle).count()
    }

    /// The group whose agent is to start next: the one that waits longest, while there is room.
    pub fn next_to_start(&self) -> Option<usize> {
        let waiting = (0..self.0.len()).filter(|&index| self.0[index].agent == Agent::Idle && self.0[index].has_work());
        let longest = waiting.min_by_key(|&index| self.0[index].waits_since);
        longest.filter(|_| self.active() < MAX_CONCURRENT)
    }

    /// What `/status` says of the queue.
    pub fn report(&self) -> Queue {
        let slots = GROUPS.iter().zip(&self.0).map(|(group, desk)| (group.folder, desk.slot()));
        Queue {
            active_containers: self.active(),
            max_concurrent: MAX_CONCURRENT,
            groups_waiting: self.0.iter().filter(|desk| desk.agent == Agent::Idle && desk.has_work()).count(),
            per_group: slots.collect(),
        }
    }
}

/// `/status.queue` of a pynchy host.
#[derive(Debug, Clone, Serialize)]
pub struct Queue {
    pub active_containers: usize,
    pub max_concurrent: usize,
    pub groups_waiting: usize,
    pub per_group: BTreeMap<&'static str, Slot>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Slot {
    pub active: bool,
    pub is_task: bool,
    pub pending_messages: bool,
    pub pending_tasks: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn who_waits_longest_starts_first_and_only_while_there_is_room() {
        let mut desks = Desks::EMPTY;
        assert_eq!(desks.next_to_start(), None);
        desks.0[1].add_message(second(20));
        desks.0[3].add_task(0, second(10));
        desks.0[1].add_message(second(30)); // It waits since 20 all the same.
        assert_eq!(desks.next_to_start(), Some(3));
        for index in [0, 2, 4] {
            desks.0[index].agent = Agent::Hung;
        }
        assert_eq!(desks.next_to_start(), Some(3));
        desks.0[3].agent = Agent::OnTask { begun: second(40) };
        assert_eq!(desks.next_to_start(), None, "all four places are taken");
        let queue = desks.report();
        assert_eq!((queue.active_containers, queue.max_concurrent, queue.groups_waiting), (4, 4, 1));
    }

    #[test]
    fn a_task_waits_once_and_waiting_ends_with_the_work() {
        let mut desk = Desk::EMPTY;
        desk.add_task(5, second(1));
        desk.add_task(5, second(2));
        desk.add_message(second(3));
        assert_eq!(desk.slot().pending_tasks, 1);
        assert_eq!(desk.take_task(), Some(5));
        assert_eq!((desk.waits_since, desk.take_task()), (Some(second(1)), None));
        desk.take_messages();
        assert_eq!(desk.waits_since, None);
    }
}
