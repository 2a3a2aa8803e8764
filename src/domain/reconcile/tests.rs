use super::*;
use crate::domain::money::NanoUsd;
use crate::domain::sample;
use crate::domain::table::Tabular;
use crate::domain::usage::Usage;
use proptest::prelude::*;

const DAY: u32 = 20_780;

fn entry(day: u32, model: &str, usage: Usage) -> Entry {
    Entry {
        at: crate::domain::time::Wall(i64::from(day) * 86_400_000_000 + 5),
        model: model.into(),
        outcome: "success".into(),
        usage,
        usage_source: UsageSource::Reported,
        cost: Some(NanoUsd(1_000)),
        price_version: "config:1".into(),
        decision: "priority/1".into(),
        ..sample::nth(0)
    }
}

fn usage(input: u64, cached_input: u64, output: u64) -> Usage {
    Usage { input, cached_input, output, ..Usage::default() }
}

fn line(day: u32, model: &str, requests: u64, prompt: u64, cached: u64, completion: u64, nano: i64) -> Line {
    Line {
        day,
        model: model.into(),
        requests: Some(requests),
        prompt: Some(prompt),
        cached_input: Some(cached),
        completion: Some(completion),
        cost: Some(NanoUsd(nano)),
        ..Line::default()
    }
}

const MAP: &str = "day=d,model=m,requests=r,prompt=p,cached_input=c,completion=o,cost=u";

fn reconciled(lines: &[Line], entries: &[Entry]) -> ReconcileReport {
    let mut all = Reconciliation::new(&Mapping::parse(MAP).unwrap(), Tolerance::default(), true);
    lines.iter().for_each(|l| all.invoiced(l));
    entries.iter().for_each(|e| all.counted(e));
    all.report()
}

/// The causes by class, within the tolerance left out.
fn causes(report: &ReconcileReport) -> Vec<(&str, &str)> {
    report.lines.iter().filter_map(|l| Some((&*l.class, l.cause?.as_str()))).collect()
}

#[test]
fn what_agrees_agrees_whatever_the_model_is_called() {
    let rows = [entry(DAY, "gpt-4.1", usage(40, 60, 20)), entry(DAY, "openai/gpt-4.1", usage(10, 0, 5))];
    let report = reconciled(&[line(DAY, "gpt-4.1-2025-04-14", 2, 110, 60, 25, 2_000)], &rows);
    assert_eq!((report.compared, report.over), (5, 0), "{}", report.to_table());
    assert_eq!(canonical("claude-sonnet-4-5-20250929"), canonical("anthropic/claude-sonnet-4.5"));
    assert_ne!(canonical("gpt-4.1"), canonical("gpt-4.1-mini"));
    // Chaos never reached the vendor.
    let injected = Entry { decision: "priority/1;chaos=status".into(), ..rows[0].clone() };
    let report = reconciled(&[line(DAY, "gpt-4.1", 2, 110, 60, 25, 2_000)], &[&rows[..], &[injected]].concat());
    assert_eq!(report.over, 0, "{}", report.to_table());
}

#[test]
fn models_are_shown_as_the_vendor_spells_them() {
    let row = |model| entry(DAY, model, usage(10, 0, 5));
    let rows = [row("gpt-4.1"), row("azure/my.own-2.0"), row("claude-sonnet-4.5"), row("my.own-2.0")];
    let lines = [
        line(DAY, "gpt-4.1-2025-04-14", 1, 10, 0, 5, 1_000),
        line(DAY, "gpt-4.1", 0, 0, 0, 0, 0),
        line(DAY, "claude-sonnet-4-5-20250929", 1, 10, 0, 5, 1_000),
    ];
    for lines in [lines.to_vec(), lines.into_iter().rev().collect()] {
        let report = reconciled(&lines, &rows);
        let shown: BTreeSet<_> = report.lines.iter().map(|l| &*l.model).collect();
        assert_eq!(shown, ["gpt-4.1", "claude-sonnet-4-5-20250929", "my.own-2.0"].into());
    }
}

#[test]
fn each_difference_is_told_with_its_cause() {
    let row = entry(DAY, "m", usage(100, 0, 50));
    let one = std::slice::from_ref(&row);
    let of = |lines: &[Line], rows: &[Entry]| {
        causes(&reconciled(lines, rows)).iter().map(|(c, w)| format!("{c}:{w}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(&[line(DAY, "m", 1, 100, 80, 50, 1_000)], one), "input:cache_class cached_input:cache_class");
    assert_eq!(
        of(&[line(DAY, "m", 1, 100, 80, 50, 400)], one),
        "input:cache_class cached_input:cache_class cost_nanousd:cache_class"
    );
    assert_eq!(of(&[line(DAY, "m", 1, 100, 0, 50, 1_200)], one), "cost_nanousd:price_version");
    assert_eq!(
        of(&[line(DAY, "m", 1, 100, 0, 50, 1_200)], &[Entry { cost: None, ..row.clone() }]),
        "cost_nanousd:unpriced"
    );
    assert_eq!(
        of(&[line(DAY, "m", 2, 200, 0, 100, 2_000)], one),
        "requests:unmetered_traffic input:unmetered_traffic output:unmetered_traffic cost_nanousd:unmetered_traffic"
    );
    assert!(
        of(&[line(DAY, "m", 1, 100, 0, 50, 1_000), line(DAY, "other", 1, 7, 0, 7, 7)], one)
            .starts_with("requests:unmetered_traffic")
    );
    assert!(
        of(&[line(DAY, "m", 1, 100, 0, 50, 1_000)], &[row.clone(), entry(DAY, "other", usage(7, 0, 7))])
            .starts_with("requests:not_invoiced")
    );
    assert!(
        of(&[line(DAY, "m", 1, 100, 0, 50, 1_000)], &[row.clone(), row.clone()]).starts_with("requests:not_invoiced")
    );
    // A stream cut here after 20 tokens went on there to 45.
    let cut = Entry {
        outcome: "partial".into(),
        usage_source: UsageSource::Estimated,
        usage: usage(100, 0, 20),
        ..row.clone()
    };
    assert_eq!(of(&[line(DAY, "m", 2, 200, 0, 95, 2_000)], &[row.clone(), cut.clone()]), "output:aborted_streams");
    // One that was left before anything came was billed for its prompt.
    let left = Entry {
        outcome: "cancelled".into(),
        usage_source: UsageSource::None,
        usage: Usage::default(),
        cost: Some(NanoUsd(0)),
        ..row.clone()
    };
    let text = of(&[line(DAY, "m", 2, 200, 0, 50, 1_500)], &[row.clone(), left]);
    assert_eq!(text, "requests:aborted_streams input:aborted_streams cost_nanousd:aborted_streams");
    let guessed = Entry { usage_source: UsageSource::Estimated, ..row.clone() };
    assert_eq!(of(&[line(DAY, "m", 1, 90, 0, 50, 1_000)], &[guessed]), "input:estimated_tokens");
    assert_eq!(of(&[line(DAY, "m", 1, 90, 0, 50, 1_000)], one), "input:unknown");
    let next = entry(DAY + 1, "m", usage(100, 0, 50));
    let lines = [line(DAY, "m", 0, 0, 0, 0, 0), line(DAY + 1, "m", 2, 200, 0, 100, 2_000)];
    assert!(of(&lines, &[row, next]).starts_with("requests:day_boundary input:day_boundary"));
}

#[test]
fn only_what_the_invoice_tells_apart_is_compared() {
    let map = Mapping::parse("day=d,model=m,prompt=p,output=o").unwrap();
    let mut all = Reconciliation::new(&map, Tolerance::default(), false);
    all.invoiced(&Line { day: DAY, model: "m".into(), prompt: Some(160), output: Some(30), ..Line::default() });
    let split = Usage { input: 40, cached_input: 60, cache_write: 60, output: 20, reasoning: 10 };
    all.counted(&entry(DAY, "m", split));
    all.counted(&entry(DAY, "another-vendors", split));
    let report = all.report();
    assert_eq!((report.compared, report.over, report.models_left_out), (2, 0, 1), "{}", report.to_table());
    assert!(report.to_table().contains("1 model of the ledger is not in the invoice"));
    let read: ReconcileReport = serde_json::from_value(report.to_json()).unwrap();
    assert_eq!(read, report);
    assert!(report.to_csv().contains("\n2026-11-23,m,input,160,160,0,0,\n"), "{}", report.to_csv());
}

#[test]
fn tolerances_are_percentages() {
    assert_eq!(Tolerance::parse("0.5%"), Ok(Tolerance::default()));
    assert_eq!(Tolerance::parse("100"), Tolerance::parse(" 100.0 % "));
    for bad in ["", "%", "-1", "101", "1e2", "0.00001", "half", "1."] {
        assert_eq!(Tolerance::parse(bad).is_ok(), bad == "1.", "{bad}");
    }
    let half = Tolerance::default();
    assert!(!half.is_over(1_000, 995) && half.is_over(1_000, 994) && half.is_over(0, 1) && !half.is_over(0, 0));
    assert!(Tolerance::parse("0").unwrap().is_over(i64::MAX, i64::MAX - 1));
    assert!(!Tolerance::parse("100").unwrap().is_over(5, 0));
}

proptest! {
    #[test]
    fn an_invoice_made_of_the_rows_always_agrees(
        rows in proptest::collection::vec((0_u32..3, "[ab]", 1_u64..1_000, 0_u64..1_000, 1_u64..500), 1..40),
    ) {
        let entries: Vec<_> = rows.iter().map(|(d, m, i, c, o)| entry(DAY + d, m, usage(*i, *c, *o))).collect();
        let lines: Vec<_> = rows.iter().map(|(d, m, i, c, o)| line(DAY + d, m, 1, i + c, *c, *o, 1_000)).collect();
        prop_assert_eq!(reconciled(&lines, &entries).over, 0);
        // One token more than the tolerance allows is found.
        let mut more = lines.clone();
        more[0].completion = Some(rows.iter().map(|r| r.4).sum::<u64>() * 2);
        prop_assert!(reconciled(&more, &entries).over > 0);
    }
}
