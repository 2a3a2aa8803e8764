//! A vendor's invoice against the ledger, offline and over the wire: what agrees ends in 0, each difference in 3 with its cause, and what
//! is no invoice in 2, with its line.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, secs, stream_body};
use serde_json::Value;
use std::path::PathBuf;

const OPENAI: &str =
    "start_time,end_time,num_model_requests,model,batch,input_tokens,output_tokens,input_cached_tokens";

/// Three answers of 10 and 5 tokens, and a stream that is cut after some words.
async fn used() -> (Gateway, Upstream) {
    let a = Upstream::start();
    let setup = Setup::new().endpoint("a", &a, &["model: gpt-4.1", "price: {input: 2, output: 8}"]).route(
        "chat",
        "priority",
        &["a"],
        &["retry: {max_attempts: 1}"],
    );
    let gateway = Gateway::start(&setup).await;
    for _ in 0..3 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"All is well here\"}}]}\n\n";
    a.once(Reply::CutEvents(text.into()));
    gateway.chat(&stream_body("chat")).await;
    gateway.wait_rows(4).await;
    (gateway, a)
}

fn invoice(gateway: &Gateway, name: &str, text: &str) -> String {
    let path: PathBuf = gateway.folder().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn an_invoice_is_held_against_the_ledger() {
    let (mut gateway, _a) = used().await;
    let rows = gateway.rows().await;
    let day = rows[0].get("at")[..10].to_owned();
    assert_eq!(rows[3].get("at")[..10], day, "the test does not run over midnight");
    let sum = |column: &str| rows.iter().map(|r| r.number(column)).sum::<i64>();
    let (input, output) = (sum("input_tokens"), sum("output_tokens"));
    let start = jiff_seconds(&day);
    let line = |requests: i64, input: i64, output: i64, cached: i64| {
        format!("{OPENAI}\n{start},{},{requests},gpt-4.1-2025-04-14,false,{input},{output},{cached}\n", start + 86_400)
    };
    let file = |name: &str, text: &str| invoice(&gateway, name, text);
    let equal = file("equal.csv", &line(4, input, output, 0));
    let aborted = file("aborted.csv", &line(4, input, output + 3, 0));
    let cached = file("cached.csv", &line(4, input, output, 10));
    let unmetered = file("unmetered.csv", &line(9, input * 3, output * 3, 0));
    let dearer = file("dearer.csv", &format!("date,model,cost\n{day},gpt-4.1,1.5\n"));
    let free = "day=date,model=model,cost=cost";
    let check = |run: &dyn Fn(&[&str]) -> crate::support::Run| {
        let of = |invoice: &str, map: &str, code: i32| {
            let words = ["ledger", "reconcile", "--invoice", invoice, "--map", map, "--format", "json"];
            serde_json::from_str::<Value>(&run(&words).expect(code).stdout).unwrap()
        };
        let report = of(&equal, "openai", 0);
        assert_eq!((report["over"].as_i64(), report["compared"].as_i64()), (Some(0), Some(3)), "{report}");
        for (invoice, map, cause) in [
            (&aborted, "openai", "aborted_streams"),
            (&cached, "openai", "cache_class"),
            (&unmetered, "openai", "unmetered_traffic"),
            (&dearer, free, "price_version"),
        ] {
            let report = of(invoice, map, 3);
            let found =
                report["lines"].as_array().unwrap().iter().filter(|l| !l["cause"].is_null()).collect::<Vec<_>>();
            assert!(!found.is_empty() && found.iter().all(|l| l["cause"] == cause), "{cause}: {report}");
        }
        let wide = ["ledger", "reconcile", "--invoice", &aborted, "--map", "openai", "--tolerance", "50%"];
        let table = run(&wide).expect(0).stdout;
        assert!(table.contains("gpt-4.1-2025-04-14") && table.contains("0 differ by more than 50 %"), "{table}");
        let csv =
            run(&["ledger", "reconcile", "--invoice", &equal, "--map", "openai", "--format", "csv"]).expect(0).stdout;
        assert!(csv.starts_with("day,model,class,invoice,ledger,difference,percent,cause\n"), "{csv}");
        let other = ["ledger", "reconcile", "--invoice", &equal, "--map", "openai", "--provider", "nobody"];
        assert!(run(&other).expect(3).stdout.contains("unmetered_traffic"));
    };
    check(&|words| gateway.run_by_url(words));
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    check(&|words| gateway.run(words));
}

fn jiff_seconds(day: &str) -> i64 {
    crate::support::seconds(&format!("{day}T00:00:00.000000Z")) as i64
}

#[tokio::test]
async fn what_is_no_invoice_changes_nothing_and_names_the_line() {
    let (mut gateway, _a) = used().await;
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    let before = gateway.run(&["ledger", "export"]).expect(0).stdout;
    for (text, says) in [
        (String::new(), "it is empty"),
        (format!("{OPENAI}\n"), "no line after it"),
        ("date,model\n2026-11-23,m\n".into(), "there is no column `start_time`; there are date, model"),
        (format!("{OPENAI}\n1795392000,1795478400,4,m,false,30,1"), "line 2: 7 cells where the head has 8"),
        (
            format!("{OPENAI}\n1795392000,,4,m,false,30,15,0\nthe third,,4,m,false,30,15,0\n"),
            "line 3: `the third` is no day",
        ),
        (format!("{OPENAI}\n1795392000,,4,m,false,thirty,15,0\n"), "line 2: `thirty` is no number"),
        (format!("{OPENAI}\n1795392000,,4,m,false,-30,15,0\n"), "line 2: `-30` is no number"),
    ] {
        let path = invoice(&gateway, "bad.csv", &text);
        let run = gateway.run(&["ledger", "reconcile", "--invoice", &path, "--map", "openai"]).expect(2);
        assert!(run.stderr.contains(says) && run.stderr.contains("bad.csv"), "{says}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
    let path = invoice(&gateway, "good.csv", &format!("{OPENAI}\n1795392000,,4,m,false,30,15,0\n"));
    for (words, says) in [
        (vec!["--map", "vendor"], "neither a layout"),
        (vec!["--map", "day=a,model=b,tokens=c"], "`tokens` is no figure"),
        (vec!["--map", "openai", "--tolerance", "much"], "no percentage"),
        (vec!["--map", "openai", "--from", "2030-01-02", "--to", "2030-01-01"], "--to is not after --from"),
        (vec!["--map", "openai", "--from", "2030-01-01"], "no line is within"),
    ] {
        let run = gateway.run(&[&["ledger", "reconcile", "--invoice", &path], &words[..]].concat()).expect(2);
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
    gateway.run(&["ledger", "reconcile", "--invoice", "/absent.csv", "--map", "openai"]).expect(2);
    assert_eq!(gateway.run(&["ledger", "export"]).expect(0).stdout, before);
}
