//! Keys that rotate, and requests that were never signed.

use super::*;

const NOW: LogTime = LogTime(1_700_000_000_000_000);
const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

fn head() -> Head {
    let content_type = "text/plain".parse().expect("a content type");
    Head { length: 5, content_type, sha256: Sha256::of(b"bytes") }
}

fn key() -> Key {
    "a/b".parse().expect("a key")
}

fn authorize(by: &Signer, signed: &Signed) -> Result<Grant, Refused> {
    let path = signed.url.strip_prefix("http://a").expect("the URL is ours");
    let header = |name: &str| signed.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    by.authorize(signed.method, path, &header, NOW)
}

#[test]
fn the_newest_key_signs_and_all_verify() {
    let (old, both, new) =
        (Signer::new("http://a", &[OLD]), Signer::new("http://a/", &[NEW, OLD]), Signer::new("http://a", &[NEW]));
    let grant = Grant::Upload { key: key(), head: head() };
    let by_old = old.upload(&key(), &head(), 60, NOW);
    assert_eq!(authorize(&both, &by_old).ok(), Some(grant.clone()));
    assert!(matches!(authorize(&new, &by_old), Err(Refused::Forbidden(why)) if why.contains("not known")));
    let by_both = both.upload(&key(), &head(), 60, NOW);
    assert_eq!(by_both, new.upload(&key(), &head(), 60, NOW));
    assert_eq!(authorize(&new, &by_both).ok(), Some(grant));
    assert!(authorize(&old, &by_both).is_err());
}

#[test]
fn a_signature_is_by_the_key_it_names() {
    let both = Signer::new("http://a", &[NEW, OLD]);
    let (by_new, by_old) =
        (both.download(&key(), "a", 60, NOW), Signer::new("http://a", &[OLD]).download(&key(), "a", 60, NOW));
    let id = |signed: &Signed| signed.url.split("&key=").nth(1).expect("it names its key")[..8].to_owned();
    assert_ne!(id(&by_new), id(&by_old));
    let mixed = Signed { url: by_new.url.replace(&id(&by_new), &id(&by_old)), ..by_new.clone() };
    assert!(authorize(&both, &by_new).is_ok());
    assert!(authorize(&both, &mixed).is_err());
}

#[test]
fn the_same_is_signed_the_same_for_ever() {
    let signed = Signer::new("http://a", &[OLD]).download(&key(), "a.txt", 60, NOW);
    let url = "http://a/blobs/a/b?disposition=attachment%3B%20filename%3D%22a.txt%22&expires=1700000061&key=7b7a85ea\
               &signature=0faeb2fe246d98f7be96201ed026638b4a61618fffc9b83fe7729ed6484d7da9";
    assert_eq!(signed.url, url);
}

#[test]
fn odd_queries_are_refused() {
    let signer = Signer::new("http://a", &[OLD]);
    let good = signer.download(&key(), "a", 60, NOW);
    let (path, query) = good.url.split_once('?').expect("it has a query");
    let (upper, longer) = (query.to_uppercase(), format!("{query}0"));
    let plus = query.replace("expires=", "expires=+");
    let twice = format!("{query}&{query}");
    for odd in ["", "&", "=", "expires=", &upper, &longer, &plus, &twice, &query.replace('&', ";"), &query[1..]] {
        let odd = Signed { url: format!("{path}?{odd}"), ..good.clone() };
        assert!(authorize(&signer, &odd).is_err(), "{}", odd.url);
    }
    assert!(authorize(&signer, &good).is_ok());
}

#[test]
fn a_url_ends_when_it_says() {
    let signer = Signer::new("http://a", &[OLD]);
    let path = signer.download(&key(), "a", 60, NOW).url.split_off("http://a".len());
    let at = |micros: i64| signer.authorize("GET", &path, &|_| None, LogTime(NOW.0 + micros)).is_ok();
    assert!(at(60 * MICROS) && at(61 * MICROS - 1));
    assert!(!at(61 * MICROS));
}
