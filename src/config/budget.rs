//! The block `budgets`, and the short form `budget` of routes and endpoints.
//!
//! An entry of `budgets` has a name and exactly one scope; the short form's scope is where it stands, and names it: `route:chat`.
//! A hard budget on an endpoint without a price is a fault: nothing could ever be sent there.

use crate::config::model::{BudgetConfig, EndpointConfig, RouteConfig};
use crate::config::reader::{Field, Section, nearest};
use crate::config::scalar::{self, duration, name, whole, word};
use crate::config::tree::Scalar;
use crate::domain::budget::period::{Period, Zone};
use crate::domain::budget::{Budget, Mode, Scope, Terms, parse_amount};
use crate::domain::filter::RowFilter;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Entries of `budgets`: each is looked at when a configuration is loaded, and has a line of its own in `/metrics`.
const MAX_BUDGETS: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3600);
const SCOPES: &str = "one of `key: ID`, `tag: NAME=VALUE`, `route: NAME`, `endpoint: NAME`";
/// What names of budgets without a name of their own begin with.
const TAKEN: [&str; 4] = ["key:", "tag:", "route:", "endpoint:"];

/// Reads `budgets`, `budget_ceiling_tokens` and `budget_wait` at the top of the file.
pub fn read(root: &mut Section<'_>, endpoints: &[Arc<EndpointConfig>], routes: &[Arc<RouteConfig>]) -> BudgetConfig {
    let mut c = BudgetConfig::default();
    root.set("budget_ceiling_tokens", &mut c.ceiling_tokens, whole(1, 1 << 20));
    root.set("budget_wait", &mut c.wait, duration(Duration::ZERO, HOUR));
    let items = root.field("budgets").filter(|f| !f.is_null()).and_then(|f| f.items()).unwrap_or_default();
    if items.len() > MAX_BUDGETS
        && let Some(field) = root.field("budgets")
    {
        field.fault(format!("{} budgets are listed; expected at most {MAX_BUDGETS}", items.len()));
    }
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    for item in items.iter().take(MAX_BUDGETS) {
        let Some(budget) = entry(item, endpoints, routes) else { continue };
        if names.insert(Arc::clone(&budget.name)) {
            c.list.push(Arc::new(budget));
        } else {
            item.fault(format!("the name `{}` is taken by another budget; expected each once", budget.name));
        }
    }
    c
}

fn entry(field: &Field<'_>, endpoints: &[Arc<EndpointConfig>], routes: &[Arc<RouteConfig>]) -> Option<Budget> {
    let mut s = field.section()?;
    let name = s.required("name", "a name for the budget").and_then(|f| f.get(own_name));
    let key = s.field("key").and_then(|f| f.get(key_id)).map(Scope::Key);
    let tag = s.field("tag").and_then(|f| f.get(tag));
    let route = s.field("route").and_then(|f| {
        let names = routes.iter().map(|r| &r.name).chain(endpoints.iter().flat_map(|e| [&e.name, &e.model]));
        known(&f, names, "can be asked for").map(Scope::Route)
    });
    let endpoint = s.field("endpoint").and_then(|f| known(&f, endpoints.iter().map(|e| &e.name), "is an endpoint"));
    let given = ["key", "tag", "route", "endpoint"].into_iter().filter(|key| s.has(key)).count();
    if given != 1 {
        s.fault(format!("the budget has {given} scopes; expected {SCOPES}"));
    }
    let terms = terms(&mut s);
    if let (Some(name), Some(terms)) = (&endpoint, &terms)
        && let Some(endpoint) = endpoints.iter().find(|e| e.name == *name)
    {
        check_priced(&s, endpoint, terms);
    }
    let scope = key.or(tag).or(route).or(endpoint.map(Scope::Endpoint));
    Some(Budget { name: name?, scope: scope.filter(|_| given == 1)?, terms: terms? })
}

/// Reads the short form under `budget`.
pub fn short(s: &mut Section<'_>) -> Option<Terms> {
    let mut s = s.field("budget").filter(|f| !f.is_null()).and_then(|f| f.section())?;
    terms(&mut s)
}

/// Refuses a hard budget of an endpoint whose price is unknown.
pub fn check_priced(s: &Section<'_>, endpoint: &EndpointConfig, terms: &Terms) {
    if endpoint.price.is_none() && terms.mode == Mode::Hard {
        s.fault(format!(
            "the endpoint `{}` has a hard budget but no price, so nothing could ever be sent to it; expected its `price`, or `mode: soft`",
            endpoint.name
        ));
    }
}

fn terms(s: &mut Section<'_>) -> Option<Terms> {
    let amount = s.required("amount", AMOUNT).and_then(|f| f.get(amount));
    let (mut period, mut timezone, mut mode) = <(Period, Zone, Mode)>::default();
    s.set("period", &mut period, word("day, week, month, total", Period::parse));
    s.set("timezone", &mut timezone, zone);
    s.set("mode", &mut mode, word("hard, soft", Mode::parse));
    Some(Terms { amount: amount?, period, timezone, mode })
}

const AMOUNT: &str = "an amount in USD above 0 with at most nine decimals, such as 50 or 0.25";

fn amount(s: &Scalar) -> Result<crate::domain::money::NanoUsd, String> {
    parse_amount(&s.text).ok().ok_or_else(|| AMOUNT.into())
}

fn zone(s: &Scalar) -> Result<Zone, String> {
    Zone::parse(&s.text).map_err(|_| "a time zone of the IANA database, such as UTC or Europe/Berlin".into())
}

fn own_name(s: &Scalar) -> Result<Arc<str>, String> {
    match TAKEN.into_iter().find(|taken| s.text.starts_with(taken)) {
        Some(taken) => {
            Err(format!("another beginning than `{taken}`, which is for budgets without a name of their own"))
        }
        None => name(s),
    }
}

fn key_id(s: &Scalar) -> Result<Arc<str>, String> {
    let fits = s.text.starts_with("key_") && scalar::check_name(&s.text).is_ok();
    fits.then(|| s.text.as_str().into()).ok_or_else(|| "the id of a virtual key, such as key_AAECAwQFBgcICQoL".into())
}

fn tag(s: &Scalar) -> Result<Scope, String> {
    let (name, value) = RowFilter::parse_tag(&s.text).map_err(|_| "a tag and its value, such as team=a".to_owned())?;
    Ok(Scope::Tag(name.into(), value.into()))
}

fn known<'a>(field: &Field<'_>, names: impl Iterator<Item = &'a Arc<str>> + Clone, what: &str) -> Option<Arc<str>> {
    let name = field.get(scalar::label)?;
    if names.clone().any(|n| *n == name) {
        return Some(name);
    }
    let guess = nearest(&name, names.map(|n| &**n)).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
    field.fault(format!("nothing of the name {} {what}{guess}", field.shown()));
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Config;
    use crate::config::parse;
    use crate::domain::money::NanoUsd;
    use std::path::Path;

    const BASE: &str = "providers:\n  p: {base_url: 'https://a.com/v1', api_key: k}\nendpoints:\n  a: {provider: p, model: m, price: {input: 1, output: 2}}\n  \
                        bare: {provider: p, model: not-listed}\nroutes:\n  chat: {strategy: priority, endpoints: [a]}\n";

    fn read(more: &str) -> Result<Config, Vec<String>> {
        let read = parse("c.yaml", &format!("{BASE}{more}"), &|_| None, Path::new(""));
        read.map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn budgets_are_read_with_their_defaults() {
        let text = "budget_wait: 2s\nbudgets:\n  - {name: team-a, tag: team=a, amount: 50}\n  \
                    - {name: one, key: key_abc, amount: 0.25, period: total, mode: soft}\n  \
                    - {name: in, route: chat, amount: 1, period: day, timezone: europe/berlin}\n  - {name: at, endpoint: a, amount: 1}\n";
        let budgets = read(text).unwrap().budgets;
        assert_eq!((budgets.ceiling_tokens, budgets.wait), (4096, Duration::from_secs(2)));
        let lines: Vec<_> = budgets
            .list
            .iter()
            .map(|b| {
                let t = &b.terms;
                let (period, mode, zone) = (t.period.as_str(), t.mode.as_str(), t.timezone.name());
                format!("{} {} {} {period} {mode} {zone}", b.name, b.scope, t.amount)
            })
            .collect();
        assert_eq!(
            lines,
            [
                "team-a tag:team=a 50.00 month hard UTC",
                "one key:key_abc 0.25 total soft UTC",
                "in route:chat 1.00 day hard Europe/Berlin",
                "at endpoint:a 1.00 month hard UTC",
            ]
        );
    }

    #[test]
    fn short_forms_stand_at_routes_and_endpoints() {
        let more = "  dear: {strategy: priority, endpoints: [a], budget: {amount: 5, period: week}}\n";
        let config = read(more).unwrap();
        assert_eq!(config.routes[1].budget.as_ref().unwrap().amount, NanoUsd(5_000_000_000));
        let named: Vec<_> = config.all_budgets(&config.endpoints).iter().map(|b| b.name.to_string()).collect();
        assert_eq!(named, ["route:dear"]);
    }

    #[test]
    fn every_fault_has_its_place_and_says_what_is_allowed() {
        let cases = [
            ("{name: x, tag: a=b}", "budgets[0]: `amount` is missing; expected an amount in USD above 0"),
            (
                "{name: x, tag: a=b, amount: ten}",
                "9:33: budgets[0].amount: `ten` is not allowed; expected an amount in USD",
            ),
            ("{name: x, tag: a=b, amount: 0}", "`0` is not allowed"),
            ("{name: x, tag: a=b, amount: -5}", "`-5` is not allowed"),
            ("{name: x, tag: a=b, amount: 1e3}", "`1e3` is not allowed"),
            ("{name: x, tag: a=b, amount: 0.0000000001}", "`0.0000000001` is not allowed"),
            ("{name: x, tag: a=b, amount: 99999999999}", "`99999999999` is not allowed"),
            ("{name: x, tag: a=b, amount: .nan}", "`.nan` is not allowed"),
            (
                "{name: x, tag: a=b, amount: 5, period: year}",
                "9:44: budgets[0].period: `year` is not allowed; expected one of day, week, month, total",
            ),
            (
                "{name: x, tag: a=b, amount: 5, timezone: Mars}",
                "budgets[0].timezone: `Mars` is not allowed; expected a time zone of the IANA",
            ),
            (
                "{name: x, tag: a=b, amount: 5, mode: firm}",
                "budgets[0].mode: `firm` is not allowed; expected one of hard, soft",
            ),
            ("{name: x, amount: 5}", "the budget has 0 scopes; expected one of `key: ID`"),
            ("{name: x, tag: a=b, route: chat, amount: 5}", "the budget has 2 scopes"),
            ("{name: x, tag: a, amount: 5}", "budgets[0].tag: `a` is not allowed; expected a tag and its value"),
            (
                "{name: x, key: abc, amount: 5}",
                "budgets[0].key: `abc` is not allowed; expected the id of a virtual key",
            ),
            ("{name: x, route: caht, amount: 5}", "nothing of the name `caht` can be asked for, did you mean `chat`?"),
            ("{name: x, endpoint: b, amount: 5}", "nothing of the name `b` is an endpoint"),
            ("{name: x, endpoint: bare, amount: 5}", "has a hard budget but no price"),
            ("{name: 'route:x', tag: a=b, amount: 5}", "expected another beginning than `route:`"),
            ("{name: x, tag: a=b, amount: 5, perriod: day}", "unknown key, did you mean `period`?"),
            ("{tag: a=b, amount: 5}", "budgets[0]: `name` is missing"),
        ];
        for (entry, message) in cases {
            let faults = read(&format!("budgets:\n  - {entry}\n")).unwrap_err().join("|");
            assert!(faults.contains(message), "{entry}: {faults}");
        }
        let twice = "budgets:\n  - {name: x, tag: a=b, amount: 5}\n  - {name: x, tag: a=c, amount: 5}\n";
        assert!(read(twice).unwrap_err()[0].contains("10:5: budgets[1]: the name `x` is taken"));
        assert!(read("budgets: {}\n").unwrap_err()[0].contains("expected a list"));
        assert!(
            read("  r: {strategy: priority, endpoints: [a], budget: 5}\n").unwrap_err()[0].contains("routes.r.budget")
        );
    }
}
