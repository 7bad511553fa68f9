use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What a scripted agent answers with: the question it saw.
type Said = Question;
type Out = Vec<Effect<u32, Said>>;

fn patience() -> Patience {
    Patience {
        silent_after: Duration::from_secs(2),
        abandon_after: Duration::from_secs(60),
        slice_bytes: 1_000,
    }
}

fn asking() -> Asking<u32, Said> {
    Asking::new(patience(), Heritage::default())
}

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1_000)
}

fn window(start: i64, end: i64) -> Window {
    let seconds = |seconds: i64| Moment::from_nanos(seconds * 1_000_000_000);
    Window::new(seconds(start), seconds(end)).unwrap()
}

fn answer(request: &Request, bytes: usize) -> Reply<Said> {
    Reply {
        request_id: if request.profile { request.id } else { 0 },
        bytes,
        more: false,
        from: None,
        data: request.question,
    }
}

/// Does one step and returns its effects.
fn run(asking: &mut Asking<u32, Said>, step: impl FnOnce(&mut Asking<u32, Said>, &mut Out)) -> Out {
    let mut out = Vec::new();
    step(asking, &mut out);
    out
}

fn ask(asking: &mut Asking<u32, Said>, now: u64, question: Question, who: u32) -> Out {
    run(asking, |asking, out| {
        let names = Names::default();
        asking.ask(at(now), question, &names, who, at(now + 2_000), out);
    })
}

fn sent(out: &Out) -> Request {
    let mut sent = out.iter().filter_map(|effect| match effect {
        Effect::Send(request) => Some(request.clone()),
        Effect::End(_) | Effect::Tell(..) => None,
    });
    let request = sent.next().expect("something is sent");
    assert_eq!(sent.next(), None, "only one");
    request
}

fn told(out: &Out) -> Vec<(u32, Outcome<Said>)> {
    let told = out.iter().filter_map(|effect| match effect {
        Effect::Tell(who, outcome) => Some((*who, outcome.clone())),
        Effect::Send(_) | Effect::End(_) => None,
    });
    told.collect()
}

fn whole(said: &[Said]) -> Outcome<Said> {
    Outcome::Whole(Arc::new(said.to_vec()))
}

#[test]
fn an_agent_that_was_asked_shortly_before_the_deadline_is_silent_when_its_time_is_over() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    run(&mut asking, |asking, out| {
        asking.ask(at(0), Question::Latest, &Names::default(), 1, at(500), out);
    });
    let out = run(&mut asking, |asking, out| asking.tick(at(500), out));
    assert_eq!(told(&out), [(1, Outcome::Nothing(Why::Late))]);
    assert!(!asking.is_silent());
    run(&mut asking, |asking, out| asking.tick(at(2_000), out));
    assert!(asking.is_silent());
}

#[test]
fn questions_for_different_names_are_different_ones() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, true, out));
    let names = |names: &[&str]| Names::new(names.iter().map(|name| (*name).to_owned()).collect());
    let mut ask = |names: &Names, who| {
        run(&mut asking, |asking, out| {
            asking.ask(at(0), Question::Latest, names, who, at(2_000), out);
        })
    };
    let first = sent(&ask(&names(&["a"]), 1));
    assert_eq!(first.names, names(&["a"]));
    assert_eq!(ask(&names(&["a"]), 2), []);
    assert_eq!(ask(&names(&["b"]), 3), []);
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(1), 1, answer(&first, 10), out);
    });
    let waited: Vec<u32> = told(&out).into_iter().map(|(who, _)| who).collect();
    assert_eq!(waited, [1, 2]);
    assert_eq!(sent(&out).names, names(&["b"]));
}

#[test]
fn fodc_o26_equal_questions_share_one_answer_and_others_wait_their_turn() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let latest = sent(&ask(&mut asking, 0, Question::Latest, 1));
    assert_eq!(ask(&mut asking, 1, Question::Latest, 2), []);
    let span = Question::Window(window(0, 5));
    assert_eq!(
        ask(&mut asking, 1, span, 3),
        [],
        "nothing while an answer is owed"
    );
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(2), 1, answer(&latest, 0), out);
    });
    let both = whole(&[Question::Latest]);
    assert_eq!(told(&out), [(1, both.clone()), (2, both)]);
    let next = sent(&out);
    assert_eq!(next.question, span);
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(3), 1, answer(&next, 0), out);
    });
    assert_eq!(
        told(&out),
        [(3, whole(&[span]))],
        "never the answer to another question"
    );
}

#[test]
fn fodc_o27_a_late_answer_satisfies_nobody() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let old = Question::Window(window(0, 5));
    let late = sent(&ask(&mut asking, 0, old, 1));
    let out = run(&mut asking, |asking, out| asking.tick(at(2_000), out));
    assert_eq!(out, [Effect::Tell(1, Outcome::Nothing(Why::Late))]);
    assert!(asking.is_silent());
    let out = ask(&mut asking, 2_001, Question::Latest, 2);
    assert_eq!(
        out,
        [Effect::Tell(2, Outcome::Nothing(Why::Silent))],
        "no second question"
    );
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(3_000), 1, answer(&late, 9), out);
    });
    assert_eq!(out, [], "it is discarded");
    assert_eq!((asking.is_silent(), asking.discarded()), (false, 1));
    let next = sent(&ask(&mut asking, 3_001, Question::Latest, 3));
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(3_002), 1, answer(&next, 9), out);
    });
    assert_eq!(told(&out), [(3, whole(&[Question::Latest]))]);
}

#[test]
fn a_stream_that_owes_for_a_minute_is_ended_and_the_next_begins_with_a_probe() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let stale = sent(&ask(&mut asking, 0, Question::Latest, 1));
    run(&mut asking, |asking, out| asking.tick(at(2_000), out));
    assert_eq!(
        run(&mut asking, |asking, out| asking.tick(at(59_999), out)),
        []
    );
    let out = run(&mut asking, |asking, out| asking.tick(at(60_000), out));
    assert_eq!(out, [Effect::End(1)]);
    let out = ask(&mut asking, 60_001, Question::Latest, 2);
    assert_eq!(out, [Effect::Tell(2, Outcome::Nothing(Why::NoStream))]);
    let probe = sent(&run(&mut asking, |asking, out| {
        asking.open(at(60_002), 2, false, out);
    }));
    assert_eq!((probe.generation, probe.question), (2, Question::Latest));
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(60_003), 1, answer(&stale, 0), out);
    });
    assert_eq!(out, []);
    assert!(
        asking.is_silent(),
        "the old stream's answer proves nothing of the new one"
    );
    run(&mut asking, |asking, out| {
        asking.reply(at(60_004), 2, answer(&probe, 0), out);
    });
    assert!(!asking.is_silent());
}

#[test]
fn a_newer_stream_takes_over_what_the_older_one_owes() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let old = sent(&ask(&mut asking, 0, Question::Latest, 1));
    let new = sent(&run(&mut asking, |asking, out| {
        asking.open(at(1), 2, false, out);
    }));
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(2), 1, answer(&old, 0), out);
    });
    assert_eq!(
        out,
        [],
        "fodc:O6: an answer on another stream than the one that was asked"
    );
    run(&mut asking, |asking, out| asking.close(1, false, out));
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(3), 2, answer(&new, 0), out);
    });
    assert_eq!(told(&out), [(1, whole(&[Question::Latest]))]);
}

#[test]
fn the_end_of_the_stream_is_told_at_once() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    ask(&mut asking, 0, Question::Latest, 1);
    ask(&mut asking, 0, Question::Window(window(0, 1)), 2);
    let out = run(&mut asking, |asking, out| asking.close(1, false, out));
    let ended = Outcome::Nothing(Why::StreamEnded);
    assert_eq!(told(&out), [(1, ended.clone()), (2, ended)]);
}

#[test]
fn fodc_f6_fodc_o17_a_plain_agents_window_is_asked_in_slices_that_fit() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let hour = window(0, 3_600);
    let mut request = sent(&ask(&mut asking, 0, Question::Window(hour), 1));
    let mut slices = Vec::new();
    let parts = loop {
        let Question::Window(slice) = request.question else {
            panic!("{request:?}")
        };
        slices.push(slice);
        // Two bytes a second.
        let bytes = slice.nanos() as usize / 500_000_000;
        assert!(bytes <= 1_000, "{slice:?}");
        let out = run(&mut asking, |asking, out| {
            asking.reply(at(1), 1, answer(&request, bytes), out);
        });
        if let [(1, Outcome::Whole(parts))] = told(&out).as_slice() {
            break Arc::clone(parts);
        }
        request = sent(&out);
    };
    let asked: Vec<Question> = slices
        .iter()
        .map(|slice| Question::Window(*slice))
        .collect();
    assert_eq!(*parts, asked);
    assert!(slices.len() < 20, "{}", slices.len());
    assert_eq!(
        (slices[0].start(), slices.last().unwrap().end()),
        (hour.start(), hour.end())
    );
    for pair in slices.windows(2) {
        assert_eq!(
            pair[0].end().nanos() + 1,
            pair[1].start().nanos(),
            "no hole, nothing twice"
        );
    }
}

#[test]
fn what_came_before_the_deadline_is_told_as_a_part() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let first = sent(&ask(&mut asking, 0, Question::Window(window(0, 3_600)), 1));
    run(&mut asking, |asking, out| {
        asking.reply(at(1), 1, answer(&first, 1_000), out);
    });
    let out = run(&mut asking, |asking, out| asking.tick(at(2_000), out));
    let part = Outcome::Part(Arc::new(vec![first.question]), Why::Late);
    assert_eq!(told(&out), [(1, part)], "never a silent hole");
}

#[test]
fn an_agent_of_ours_answers_in_parts_and_only_to_the_question_it_was_asked() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, true, out));
    let hour = Question::Window(window(0, 3_600));
    let request = sent(&ask(&mut asking, 0, hour, 1));
    assert_eq!(
        request.question, hour,
        "whole: it can answer in several messages"
    );
    let mut part = answer(&request, 1_000_000);
    part.more = true;
    let mut other = part.clone();
    other.request_id += 1;
    assert_eq!(
        run(&mut asking, |asking, out| asking.reply(
            at(1),
            1,
            part.clone(),
            out
        )),
        []
    );
    assert_eq!(
        run(&mut asking, |asking, out| asking.reply(
            at(1),
            1,
            other,
            out
        )),
        []
    );
    part.more = false;
    part.from = Some(Moment::from_nanos(7));
    let out = run(&mut asking, |asking, out| asking.reply(at(2), 1, part, out));
    let cut = Outcome::Part(Arc::new(vec![hour, hour]), Why::Truncated);
    assert_eq!(told(&out), [(1, cut)]);
}

#[test]
fn an_answer_without_room_is_reported_and_the_agent_is_not_blamed() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let request = sent(&ask(&mut asking, 0, Question::Latest, 1));
    let out = run(&mut asking, |asking, out| {
        asking.reply_lost(at(1), 1, answer(&request, 5), out);
    });
    let part = Outcome::Part(Arc::new(vec![Question::Latest]), Why::NoRoom);
    assert_eq!(told(&out), [(1, part)]);
    assert!(!asking.is_silent());
}

#[test]
fn messages_that_nobody_asked_for_end_the_stream_in_the_end() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    let request = Request {
        generation: 1,
        id: 1,
        question: Question::Latest,
        names: Names::default(),
        profile: false,
    };
    for _ in 1..UNASKED {
        let out = run(&mut asking, |asking, out| {
            asking.reply(at(0), 1, answer(&request, 0), out);
        });
        assert_eq!(out, []);
    }
    let out = run(&mut asking, |asking, out| {
        asking.reply(at(0), 1, answer(&request, 0), out);
    });
    assert_eq!(out, [Effect::End(1)]);
}

#[test]
fn the_queue_of_different_questions_has_an_end() {
    let mut asking = asking();
    run(&mut asking, |asking, out| asking.open(at(0), 1, false, out));
    for number in 0..=QUEUE {
        let question = Question::Window(window(0, i64::try_from(number).unwrap()));
        assert_eq!(told(&ask(&mut asking, 0, question, number as u32)), []);
    }
    let out = ask(&mut asking, 0, Question::Latest, 99);
    assert_eq!(out, [Effect::Tell(99, Outcome::Nothing(Why::Busy))]);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8),
    Open(bool),
    /// How many streams back.
    Close(u8),
    Reply(u8, u16),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5).prop_map(Step::Ask),
        1 => any::<bool>().prop_map(Step::Open),
        1 => (0u8..2).prop_map(Step::Close),
        5 => (0u8..2, 0u16..3_000).prop_map(|(back, bytes)| Step::Reply(back, bytes)),
        3 => (0u16..3_000).prop_map(Step::Wait),
    ]
}

fn question(number: u8) -> Question {
    match number {
        0 => Question::Latest,
        number => Question::Window(window(0, 40 * i64::from(number))),
    }
}

/// An agent that answers what it was asked, in order, and those who wait.
#[derive(Default)]
struct World {
    now: u64,
    generation: u64,
    /// Unanswered requests of each stream.
    owed: BTreeMap<u64, VecDeque<Request>>,
    asked: BTreeMap<u32, (Question, u64)>,
    next: u32,
}

impl World {
    fn take(&mut self, out: Out) -> Result<(), TestCaseError> {
        for effect in out {
            match effect {
                Effect::Send(request) => {
                    prop_assert_eq!(request.generation, self.generation);
                    let owed = self.owed.entry(request.generation).or_default();
                    prop_assert!(owed.is_empty(), "a second question while one is owed");
                    owed.push_back(request);
                }
                Effect::End(generation) => {
                    self.owed.remove(&generation);
                }
                Effect::Tell(who, outcome) => {
                    let (question, _) = self.asked.remove(&who).expect("told once");
                    check(question, &outcome)?;
                }
            }
        }
        Ok(())
    }
}

/// Only answers to this very question are in it; all of them if it is whole.
fn check(asked: Question, outcome: &Outcome<Said>) -> Result<(), TestCaseError> {
    let (parts, is_whole) = match outcome {
        Outcome::Nothing(_) => return Ok(()),
        Outcome::Whole(parts) => (parts, true),
        Outcome::Part(parts, _) => (parts, false),
    };
    let Question::Window(window) = asked else {
        prop_assert_eq!(&**parts, &[Question::Latest]);
        return Ok(());
    };
    let mut covered = window.start().nanos();
    for part in &**parts {
        let Question::Window(slice) = part else {
            panic!("{part:?} answers {asked:?}")
        };
        prop_assert_eq!(slice.start().nanos(), covered);
        covered = slice.end().nanos() + 1;
    }
    prop_assert!(
        !is_whole || covered == window.end().nanos() + 1,
        "a silent hole"
    );
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_everybody_is_told_once_in_time_and_the_truth(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut asking = asking();
        let mut world = World::default();
        for step in steps {
            let now = at(world.now);
            let out = match step {
                Step::Wait(millis) => {
                    world.now += u64::from(millis);
                    let now = at(world.now);
                    let out = run(&mut asking, |asking, out| asking.tick(now, out));
                    world.take(out)?;
                    let waiting = world.asked.values().all(|(_, deadline)| *deadline > world.now);
                    prop_assert!(waiting, "somebody waits past the deadline");
                    continue;
                }
                Step::Ask(number) => {
                    let (who, deadline) = (world.next, world.now + 2_000);
                    world.next += 1;
                    world.asked.insert(who, (question(number), deadline));
                    run(&mut asking, |asking, out| {
                        asking.ask(now, question(number), &Names::default(), who, at(deadline), out);
                    })
                }
                Step::Open(profile) => {
                    world.generation += 1;
                    let generation = world.generation;
                    run(&mut asking, |asking, out| asking.open(now, generation, profile, out))
                }
                Step::Close(back) => {
                    let generation = world.generation.saturating_sub(u64::from(back));
                    world.owed.remove(&generation);
                    run(&mut asking, |asking, out| asking.close(generation, false, out))
                }
                Step::Reply(back, bytes) => {
                    let generation = world.generation.saturating_sub(u64::from(back));
                    let owed = world.owed.get_mut(&generation).and_then(VecDeque::pop_front);
                    let Some(request) = owed else { continue };
                    let reply = answer(&request, usize::from(bytes));
                    run(&mut asking, |asking, out| asking.reply(now, generation, reply, out))
                }
            };
            world.take(out)?;
        }
        world.now += 2_000;
        let now = at(world.now);
        let out = run(&mut asking, |asking, out| asking.tick(now, out));
        world.take(out)?;
        prop_assert!(world.asked.is_empty(), "never told: {:?}", world.asked);
    }
}
