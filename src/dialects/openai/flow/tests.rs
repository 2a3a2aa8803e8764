use super::*;
use crate::domain::usage::Usage;
use proptest::prelude::*;

const COMMENT: &str = ": cost\n";
const DONE: &str = "[DONE]";

/// One event as a vendor may write it: the data's lines, what else it has, and its line ends.
#[derive(Clone, Debug)]
struct Written {
    data: Option<String>,
    bytes: Vec<u8>,
}

fn content(n: usize) -> String {
    format!(r#"{{"id":"x","choices":[{{"index":0,"delta":{{"content":" t{n}é"}},"finish_reason":null}}]}}"#)
}

fn finish() -> String {
    r#"{"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#.into()
}

fn usage() -> String {
    r#"{"id":"x","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#.into()
}

/// An event with data in one of the ways that the standard allows.
fn write(data: &str, manner: usize) -> Written {
    let nl = ["\n", "\r\n", "\r"][manner % 3];
    // A line feed where JSON allows blanks: the data stands on two lines.
    let on_two = data.replacen(",\"choices\"", "\n,\"choices\"", 1);
    let data = if manner.is_multiple_of(4) && data != DONE { on_two } else { data.to_owned() };
    let blank = if manner.is_multiple_of(5) { "" } else { " " };
    let mut text = String::new();
    if manner.is_multiple_of(7) {
        text.push_str(&format!(": a remark{nl}id: 7{nl}"));
    }
    for line in data.lines() {
        text.push_str(&format!("data:{blank}{line}{nl}"));
    }
    text.push_str(nl);
    Written { data: Some(data), bytes: text.into_bytes() }
}

/// A whole stream: perhaps a byte order mark, content, an end, usage, the marker; with comments between.
fn stream() -> impl Strategy<Value = (bool, Vec<Written>)> {
    let manners = proptest::collection::vec(0_usize..420, 4..20);
    (any::<bool>(), manners, any::<bool>(), any::<bool>()).prop_map(|(mark, manners, has_usage, has_done)| {
        let mut events = Vec::new();
        let mut manner = manners.iter().cycle();
        let mut next = || *manner.next().unwrap();
        for n in 0..manners.len() {
            events.push(write(&content(n), next()));
            if n % 6 == 5 {
                events.push(Written { data: None, bytes: b": ping\n\n".to_vec() });
            }
        }
        events.push(write(&finish(), next()));
        if has_usage {
            events.push(write(&usage(), next()));
        }
        if has_done {
            events.push(write(DONE, next()));
        }
        (mark, events)
    })
}

fn bytes_of(mark: bool, events: &[Written]) -> Vec<u8> {
    let start: &[u8] = if mark { b"\xEF\xBB\xBF" } else { b"" };
    start.iter().copied().chain(events.iter().flat_map(|e| e.bytes.iter().copied())).collect()
}

/// What a client should get of whole events, said as plainly as possible; the last event apart.
fn model(events: &[Written], wants_usage: bool) -> (Vec<u8>, Option<Vec<u8>>) {
    let (mut out, mut commented) = (Vec::new(), false);
    for event in events {
        let is_usage = event.data.as_deref().is_some_and(|d| d.contains("\"usage\""));
        if event.data.as_deref() == Some(DONE) {
            let comment = if commented { String::new() } else { format!("{COMMENT}\n") };
            return (out, Some([comment.as_bytes(), &event.bytes].concat()));
        }
        if is_usage {
            out.extend_from_slice(COMMENT.as_bytes());
            commented = true;
        }
        match (is_usage, wants_usage) {
            (true, false) => out.push(b'\n'),
            _ => out.extend_from_slice(&event.bytes),
        }
    }
    let comment = if commented { String::new() } else { format!("{COMMENT}\n") };
    (out, Some(format!("{comment}data: [DONE]\n\n").into_bytes()))
}

/// Counts what it saw.
#[derive(Default)]
struct Eye {
    text: String,
    usage: Option<Usage>,
}

impl Watcher for Eye {
    fn saw(&mut self, chunk: &Chunk<'_>) {
        chunk.text.each().for_each(|piece| self.text.push_str(piece));
        self.usage = chunk.usage.map(|r| r.usage).or(self.usage);
    }

    fn comment(&mut self) -> String {
        COMMENT.to_owned()
    }
}

struct Run {
    flow: Flow,
    eye: Eye,
    out: Vec<u8>,
    failed: bool,
}

impl Run {
    fn new(wants_usage: bool) -> Self {
        Self { flow: Flow::new(wants_usage, None), eye: Eye::default(), out: Vec::new(), failed: false }
    }

    fn feed(&mut self, packet: &[u8]) {
        self.failed |= self.flow.push(packet, &mut self.eye).is_err();
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(ready) = self.flow.take_ready() {
            self.out.extend_from_slice(&ready);
        }
    }
}

/// Events and remarks as the standard reads them. A line feed that follows a carriage return at a packet's end leaves with the next event,
/// which may put a blank line more between two, or behind a remark; that means nothing.
fn alike(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8(bytes.to_vec()).unwrap().replace("\r\n", "\n").replace('\r', "\n");
    let (mut all, mut event) = (Vec::new(), String::new());
    for line in text.lines() {
        match line {
            "" if event.is_empty() => {}
            "" => all.push(std::mem::take(&mut event)),
            remark if remark.starts_with(':') => all.push(remark.to_owned()),
            field => event.push_str(&format!("{field}\n")),
        }
    }
    if !event.is_empty() {
        all.push(format!("{event}without an end"));
    }
    all
}

fn packets<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let (mut all, mut rest) = (Vec::new(), bytes);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (packet, tail) = rest.split_at((*size).min(rest.len()));
        all.push(packet);
        rest = tail;
    }
    all
}

proptest! {
    #[test]
    fn every_split_gives_what_the_plain_model_gives(
        (mark, events) in stream(),
        sizes in proptest::collection::vec(1_usize..40, 1..60),
        wants_usage in any::<bool>(),
    ) {
        let bytes = bytes_of(mark, &events);
        let (body, end) = model(&events, wants_usage);
        for sizes in [&sizes[..], &[1], &[usize::MAX]] {
            let mut run = Run::new(wants_usage);
            packets(&bytes, sizes).into_iter().for_each(|packet| run.feed(packet));
            prop_assert!(!run.failed);
            prop_assert_eq!(alike(&run.out), alike(&body), "nothing is held but the end");
            prop_assert!(run.flow.close(), "its choice ended");
            prop_assert!(run.flow.finish(&mut run.eye));
            run.drain();
            prop_assert_eq!(alike(&run.out), alike(&[body.clone(), end.clone().unwrap()].concat()));
            prop_assert!(!run.flow.finish(&mut run.eye), "once");
        }
    }

}

proptest! {
    // Each case cuts its stream at every byte.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_cut_gives_the_whole_events_before_it_and_never_looks_complete_too_early(
        (mark, events) in stream(),
        sizes in proptest::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes = bytes_of(mark, &events);
        for cut in 0..bytes.len() {
            let mut run = Run::new(true);
            packets(&bytes[..cut], &sizes).into_iter().for_each(|packet| run.feed(packet));
            prop_assert!(!run.failed);
            // Events that are there whole; the second byte of the last one's CRLF may be missing.
            let mut at = if mark { 3 } else { 0 };
            let whole = events.iter().take_while(|e| {
                at += e.bytes.len();
                at <= cut || (at == cut + 1 && e.bytes.ends_with(b"\r\n"))
            }).count();
            let (body, _) = model(&events[..whole], true);
            prop_assert_eq!(alike(&run.out), alike(&body), "cut at {}", cut);
            let finished = events[..whole].iter().any(|e| e.data.as_deref().is_some_and(|d| d.contains("\"stop\"")));
            let is_done = events[..whole].iter().any(|e| e.data.as_deref() == Some(DONE));
            let mid_event = bytes[..cut].len() > at.saturating_sub(events.get(whole).map_or(0, |e| e.bytes.len()));
            let complete = run.flow.close();
            prop_assert!(!complete || finished || is_done, "cut at {}", cut);
            if is_done || (finished && !mid_event) {
                prop_assert!(complete, "cut at {}", cut);
            }
        }
    }

}

proptest! {
    #[test]
    fn junk_never_panics_and_never_grows(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..40)) {
        let mut run = Run::new(false);
        let all: usize = packets.iter().map(Vec::len).sum();
        packets.iter().for_each(|packet| run.feed(packet));
        prop_assert!(run.out.len() <= all + COMMENT.len() + 1);
    }
}

#[test]
fn a_broken_event_ends_it_and_what_came_before_is_there() {
    let good = write(&content(0), 1);
    for bad in ["data: {\"choices\":[{\n\n", "data: {\"error\":{\"type\":\"overloaded_error\"}}\n\n"] {
        let mut run = Run::new(false);
        run.feed(&[&good.bytes, bad.as_bytes()].concat());
        assert!(run.failed, "{bad}");
        assert_eq!(run.out, good.bytes);
        assert!(!run.flow.close());
    }
    let mut endless = Run::new(false);
    endless.feed(&vec![b'x'; crate::dialects::sse::MAX_EVENT + 1]);
    assert!(endless.failed);
}

#[test]
fn what_passes_is_seen() {
    let mut run = Run::new(false);
    run.feed(&write(&finish(), 1).bytes[..20]);
    assert!(!run.flow.has_content() && run.flow.is_mid_event());
    run.feed(&write(&finish(), 1).bytes[20..]);
    run.feed(&write(&content(1), 1).bytes);
    run.feed(&write(&usage(), 1).bytes);
    assert_eq!(run.eye.text, " t1é");
    assert_eq!(run.eye.usage, Some(Usage { input: 3, output: 5, ..Usage::default() }));
    assert_eq!((run.flow.events(), run.flow.has_content()), (3, true));
}
