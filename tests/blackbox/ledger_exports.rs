//! Exports in all their shapes: the same bytes offline and over the admin API, and sums that are the report's.

use crate::support::ledger::{cost, read_csv};
use crate::support::{Answer, Gateway, Setup, Upstream, chat_body, secs};

async fn used() -> (Gateway, Upstream, Upstream) {
    let (a, b) = (Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("a", &a, &["price: {input: 0.42, output: 1.37}"])
        .endpoint("b", &b, &["price: {input: 15, output: 75}"])
        .route("fair", "round_robin", &["a", "b"], &[]);
    let gateway = Gateway::start(&setup).await;
    for n in 0..20 {
        let tag = format!("team={}", ["red", "blue"][n % 2]);
        gateway.chat_with(&[("x-breakwater-tag", &tag)], &chat_body("fair")).await.expect(200);
    }
    gateway.wait_rows(20).await;
    (gateway, a, b)
}

async fn export(gateway: &Gateway, query: &str) -> Answer {
    gateway.admin("GET", &format!("/admin/ledger/export?{query}"), None).await
}

#[tokio::test]
async fn filters_take_what_fits_and_refuse_what_they_do_not_know() {
    let (gateway, ..) = used().await;
    let all = gateway.rows().await;
    for (query, column, value) in [
        ("endpoint=a", "endpoint", "a"),
        ("model=model-b", "model", "model-b"),
        ("outcome=success&tag=team%3Dred", "tags", "{\"team\":\"red\"}"),
    ] {
        let part = read_csv(&export(&gateway, query).await.expect(200).text());
        let expected: Vec<_> = all.iter().filter(|r| r.get(column) == value).map(|r| r.get("seq")).collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "{query}");
        assert_eq!(part.iter().map(|r| r.get("seq")).collect::<Vec<_>>(), expected, "{query}");
    }
    let by_url = gateway.run_by_url(&["ledger", "export", "--tag", "team=red", "--endpoint", "a"]).expect(0).stdout;
    let part = read_csv(&export(&gateway, "tag=team%3Dred&endpoint=a").await.expect(200).text());
    assert_eq!(read_csv(&by_url).len(), part.len());
    for (bad, param) in [
        ("colour=red", "colour"),
        ("tag=red", "tag"),
        ("endpoint=a&endpoint=b", "endpoint"),
        ("format=xlsx", "format"),
        ("compress=lzma", "compress"),
        ("format=parquet&compress=gzip", "compress"),
        ("from=noon", "from"),
        ("to=noon", "to"),
        ("from=2026-12-02&to=2026-12-01", "to"),
        ("from=2026-12-02&to=2026-12-02", "to"),
    ] {
        let answer = export(&gateway, bad).await;
        assert_eq!(answer.expect(400).json()["error"]["param"], param, "{bad}");
    }
    for (path, param) in [
        ("/admin/ledger?group_by=colour", "group_by"),
        ("/admin/ledger?group_by=tag:", "group_by"),
        ("/admin/ledger?from=2026-12-02&to=2026-12-01", "to"),
        ("/admin/report?from=x", "from"),
        ("/admin/ledger/savings", "baseline"),
        ("/admin/ledger/savings?baseline=nobody-knows-it", "baseline"),
        ("/admin/ledger/resilience?to=x", "to"),
    ] {
        let answer = gateway.admin("GET", path, None).await;
        assert_eq!(answer.expect(400).json()["error"]["param"], param, "{path}");
    }
}

#[tokio::test]
async fn every_shape_comes_offline_and_online_and_verifies() {
    let (mut gateway, ..) = used().await;
    let total = cost(&gateway.rows().await);
    let file = |name: &str| gateway.folder().join(name).display().to_string();
    for (option, compress) in [("--gzip", "gzip"), ("--zstd", "zstd")] {
        let (by_url, by_hand) = (file("by_url"), gateway.folder().join("by_hand"));
        gateway.run_by_url(&["ledger", "export", option, "--output", &by_url]).expect(0);
        let answer = export(&gateway, &format!("compress={compress}")).await;
        answer.expect(200);
        assert_eq!(answer.need("content-type"), format!("application/{compress}"));
        std::fs::write(&by_hand, &answer.body).unwrap();
        for path in [by_url, by_hand.display().to_string()] {
            let found = gateway.run(&["ledger", "verify", "--file", &path]).expect(0).stdout;
            assert!(found.contains("rows 1 to 20"), "{found}");
        }
    }
    let online = export(&gateway, "format=parquet").await;
    online.expect(200);
    assert_eq!(online.need("content-type"), "application/vnd.apache.parquet");
    let (by_url, offline) = (file("online.parquet"), file("offline.parquet"));
    gateway.run_by_url(&["ledger", "export", "--format", "parquet", "--output", &by_url]).expect(0);
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    gateway.run(&["ledger", "export", "--format", "parquet", "--output", &offline]).expect(0);
    // The files differ in the time of their checkpoints only.
    for file in [std::fs::read(&offline).unwrap(), std::fs::read(&by_url).unwrap(), online.body] {
        assert_eq!(parquet_cost(file), total);
    }
}

/// The sum of a Parquet export's costs, nano-dollars.
fn parquet_cost(bytes: Vec<u8>) -> i64 {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
    let of_row = |row: parquet::record::Row| {
        row.get_column_iter().find(|(name, _)| *name == "cost_nanousd").map_or(0, |(_, field)| match field {
            Field::Long(nano) => *nano,
            _ => 0,
        })
    };
    file.get_row_iter(None).unwrap().map(|row| of_row(row.unwrap())).sum()
}
