//! `GET /`: a page for people. It stands still: what it shows, its script reads from `/status`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::standing::Body;

/// Where its parts are. Their names change with what is in them, so a browser may keep them for ever.
pub const FOLDER: &str = "/assets/";

/// One file of the page.
pub struct Asset {
    pub kind: &'static str,
    pub body: Body,
}

/// The parts, by path.
static PARTS: LazyLock<BTreeMap<String, Asset>> = LazyLock::new(|| {
    let parts = [
        ("page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
        ("page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
        ("mark.svg", "image/svg+xml", include_str!("page/mark.svg")),
    ];
    let named = |(name, kind, text)| (format!("{FOLDER}{:016x}/{name}", hash(text)), Asset { kind, body: body(text) });
    parts.map(named).into()
});

/// The page, without and with a way to the profiler.
static PAGES: LazyLock<[Asset; 2]> = LazyLock::new(|| {
    ["", " data-profiler=\"/debug/pprof/\""].map(|profiler| {
        let mut page = include_str!("page/page.html").replace("{profiler}", profiler);
        for path in PARTS.keys() {
            let name = path.rsplit('/').next().unwrap_or(path);
            page = page.replace(&format!("{{{name}}}"), path);
        }
        Asset { kind: super::HTML, body: body(&page) }
    })
});

/// A part of the page; `None`: there is no such part, or there was in another version.
pub fn part(path: &str) -> Option<&'static Asset> {
    PARTS.get(path)
}

/// The page itself; `profiler`: whether the program's own profile can be asked for.
pub fn page(profiler: bool) -> &'static Asset {
    &PAGES[usize::from(profiler)]
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn body(text: &str) -> Body {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    let gzip = packer.write_all(text.as_bytes()).and_then(|()| packer.finish());
    let plain = Bytes::copy_from_slice(text.as_bytes());
    Body { seq: 0, plain, gzip: gzip.expect("memory takes all that is written").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_that_the_page_names_is_there_under_a_name_of_its_own() {
        let html = String::from_utf8(page(false).body.plain.to_vec()).unwrap();
        let named: Vec<_> = html.split('"').filter(|word| word.starts_with(FOLDER)).collect();
        assert_eq!(named.len(), 3, "{named:?}");
        assert!(named.iter().all(|path| part(path).is_some()), "{named:?}");
        assert!(!html.contains('{'), "a name that was not filled in");
        assert!(part("/assets/0000000000000000/page.js").is_none());
    }

    #[test]
    fn all_of_it_is_light() {
        let packed: usize = PARTS.values().chain(&*PAGES).map(|asset| asset.body.gzip.len()).sum();
        assert!(packed <= 60 * 1024, "{packed} bytes");
    }

    #[test]
    fn nothing_of_it_is_asked_for_elsewhere() {
        for asset in PARTS.values().chain(&*PAGES) {
            let text = String::from_utf8_lossy(&asset.body.plain).replace("http://www.w3.org/2000/svg", "");
            for outside in ["http:", "https:", "//cdn", "@import", "innerHTML", "eval("] {
                assert!(!text.contains(outside), "{outside}");
            }
        }
    }
}
