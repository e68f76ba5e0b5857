//! From the members that a group has to those that it is to have, one safe step at a time.
//!
//! Each leader asks [`next`] again and again, and does what it says; so a new leader goes on where the last one stopped, whatever the
//! last one knew. What is wanted comes from the metadata, which lets one node in or out at a time.
//!
//! A node that lost its log comes back as another member; that one takes the place of the one before in one change, so that the number of those
//! that vote stays.
//!
//! Otherwise adding comes before removing: a member comes as a learner, votes when it is near the end of the log, and only then another goes. A
//! leader that is to go hands itself over first.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{MemberId, Membership, node_of};

/// A learner that lacks fewer entries than this is let to vote: less than is in flight on a busy group.
pub const NEAR_ENTRIES: u64 = 512;

/// What a group is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Members that are to vote.
    pub voters: BTreeSet<MemberId>,
    /// Members that are not to be there.
    pub gone: BTreeSet<MemberId>,
}

/// The group as its leader sees it.
#[derive(Clone, Debug)]
pub struct Present<'a> {
    /// The leader.
    pub me: MemberId,
    /// The members, as of the last entry of the log that says so.
    pub membership: &'a Membership,
    /// That entry is committed.
    pub committed: bool,
    /// How far each member is behind, in entries.
    pub lag: &'a BTreeMap<MemberId, u64>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is as it is wanted.
    Done,
    /// Nothing yet: a change is not committed, or a learner is not near.
    Wait,
    /// A change stopped half way, with its leader: end it.
    Flatten,
    /// Take it in as a learner.
    Add(MemberId),
    /// Let it vote.
    Promote(MemberId),
    /// Let the second vote in the place of the first, which is the same node with a log that it lost.
    Replace(MemberId, MemberId),
    /// Hand the leadership to it: this member is to go.
    HandOver(MemberId),
    /// Take it out.
    Remove(MemberId),
}

/// The next step of the leader.
pub fn next(present: &Present<'_>, wanted: &Wanted) -> Step {
    let membership = present.membership;
    if !present.committed {
        return Step::Wait;
    }
    if membership.get_joint_config().len() > 1 {
        return Step::Flatten;
    }
    let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
    let near = |member: &MemberId| {
        present
            .lag
            .get(member)
            .is_some_and(|lag| *lag < NEAR_ENTRIES)
    };
    if let Some(member) = wanted.voters.difference(&voters).next() {
        if membership.get_node(member).is_none() {
            return Step::Add(*member);
        }
        let same = |old: &&MemberId| {
            node_of(**old) == node_of(*member) && voters.contains(*old) && **old != present.me
        };
        return match (near(member), wanted.gone.iter().find(same)) {
            (true, Some(old)) => Step::Replace(*old, *member),
            (true, None) => Step::Promote(*member),
            (false, _) => Step::Wait,
        };
    }
    // The leader last: what it can do, it does.
    let there = |member: &&MemberId| membership.get_node(member).is_some();
    let going = || wanted.gone.iter().filter(there);
    if let Some(member) = going().find(|member| **member != present.me) {
        return match voters.len() == 1 && voters.contains(member) {
            true => Step::Wait,
            false => Step::Remove(*member),
        };
    }
    if going().next().is_none() {
        return Step::Done;
    }
    let stay = voters.iter().filter(|member| !wanted.gone.contains(member));
    let nearest = stay
        .filter(|member| near(member))
        .min_by_key(|member| present.lag.get(member));
    nearest.map_or(Step::Wait, |member| Step::HandOver(*member))
}

#[cfg(test)]
mod tests {
    use super::super::types::member_id;
    use super::*;

    fn membership(configs: &[&[u64]], learners: &[u64]) -> Membership {
        let configs = configs.iter().map(|c| c.iter().copied().collect());
        Membership::new_with_defaults(configs.collect(), learners.iter().copied())
    }

    fn step(membership: &Membership, lag: &[(u64, u64)], voters: &[u64], gone: &[u64]) -> Step {
        let lag = lag.iter().copied().collect();
        let present = Present {
            me: 1,
            membership,
            committed: true,
            lag: &lag,
        };
        let wanted = Wanted {
            voters: voters.iter().copied().collect(),
            gone: gone.iter().copied().collect(),
        };
        next(&present, &wanted)
    }

    const LAG: &[(u64, u64)] = &[(1, 0), (2, 3), (3, 1)];

    #[test]
    fn one_comes_as_a_learner_and_votes_when_it_is_near() {
        let three = membership(&[&[1, 2, 3]], &[]);
        assert_eq!(step(&three, LAG, &[1, 2, 3], &[]), Step::Done);
        assert_eq!(step(&three, LAG, &[1, 2, 3, 4], &[]), Step::Add(4));
        let learns = membership(&[&[1, 2, 3]], &[4]);
        assert_eq!(step(&learns, LAG, &[1, 2, 3, 4], &[]), Step::Wait);
        assert_eq!(step(&learns, &[(4, NEAR_ENTRIES)], &[4], &[]), Step::Wait);
        assert_eq!(step(&learns, &[(4, 5)], &[4], &[]), Step::Promote(4));
    }

    #[test]
    fn removing_comes_after_adding_and_the_leader_last() {
        let four = membership(&[&[1, 2, 3]], &[4]);
        assert_eq!(step(&four, LAG, &[1, 3, 4], &[2]), Step::Wait);
        let four = membership(&[&[1, 2, 3, 4]], &[]);
        assert_eq!(step(&four, LAG, &[1, 3, 4], &[2]), Step::Remove(2));
        assert_eq!(step(&four, LAG, &[3, 4], &[1, 2]), Step::Remove(2));
        let three = membership(&[&[1, 2, 3]], &[]);
        assert_eq!(step(&three, LAG, &[2, 3], &[1]), Step::HandOver(3));
        assert_eq!(step(&three, &[(2, 9000)], &[2, 3], &[1]), Step::Wait);
        let learns = membership(&[&[1, 2, 3]], &[5]);
        assert_eq!(step(&learns, LAG, &[1, 2, 3], &[5]), Step::Remove(5));
    }

    #[test]
    fn who_lost_its_log_learns_and_takes_its_own_place() {
        let (one, two, old, new) = (
            member_id(1, 0),
            member_id(2, 0),
            member_id(3, 0),
            member_id(3, 1),
        );
        let near = [(one, 0), (two, 1), (new, 2)].into();
        let step = |membership: &Membership| {
            let present = Present {
                me: one,
                membership,
                committed: true,
                lag: &near,
            };
            let wanted = Wanted {
                voters: [one, two, new].into(),
                gone: [old].into(),
            };
            next(&present, &wanted)
        };
        let before = membership(&[&[one, two, old]], &[]);
        assert_eq!(step(&before), Step::Add(new));
        let learns = membership(&[&[one, two, old]], &[new]);
        assert_eq!(step(&learns), Step::Replace(old, new));
        let after = membership(&[&[one, two, new]], &[]);
        assert_eq!(step(&after), Step::Done);
    }

    #[test]
    fn a_change_that_was_left_half_way_is_ended_first() {
        let joint = membership(&[&[1, 2, 3], &[1, 2, 3, 4]], &[]);
        assert_eq!(step(&joint, LAG, &[1, 2, 3], &[4]), Step::Flatten);
        let lag = BTreeMap::new();
        let present = Present {
            me: 1,
            membership: &joint,
            committed: false,
            lag: &lag,
        };
        assert_eq!(next(&present, &Wanted::default()), Step::Wait);
    }

    #[test]
    fn the_last_voter_stays() {
        let one = membership(&[&[1]], &[2]);
        assert_eq!(step(&one, LAG, &[], &[1]), Step::Wait);
    }
}
