//! The allocations of parsing, which do not depend on the load of the machine.

use allocation_counter::measure;
use steadfast_bench::pages::Exporter;
use steadfast_exposition::{
    FamilyRef, Format, Limits, LineFault, Parser, Refused, SeriesRef, Sink, Summary,
};

/// Counts series and samples.
#[derive(Default)]
struct Count {
    series: u32,
    samples: u64,
}

impl Sink for Count {
    type Id = u32;

    fn series(&mut self, _: &SeriesRef<'_>) -> Result<u32, Refused> {
        self.series += 1;
        Ok(self.series)
    }

    fn sample(&mut self, _: u32, _: f64, _: Option<i64>) {
        self.samples += 1;
    }

    fn rejected(&mut self, fault: &LineFault<'_>) {
        panic!("the page has a fault: {fault}");
    }

    fn family(&mut self, _: &FamilyRef<'_>) {}
}

fn scrape(parser: &mut Parser<u32>, count: &mut Count, page: &str, piece: usize) -> Summary {
    parser.begin(Format::Prometheus);
    for piece in page.as_bytes().chunks(piece) {
        parser.push(piece, count);
    }
    parser.finish(count)
}

#[test]
fn a_repeated_scrape_allocates_nothing() {
    for mut exporter in [Exporter::of_machine(), Exporter::of_service()] {
        let pages: Vec<String> = (0..6).map(|_| exporter.scrape()).collect();
        let (mut parser, mut count) = (Parser::new(Limits::default()), Count::default());
        // The buffer for a partial line is allocated once, in the first scrapes.
        for page in &pages[..2] {
            scrape(&mut parser, &mut count, page, 1000);
        }
        let held = parser.held_bytes();
        for page in &pages[2..] {
            let allocations = measure(|| {
                let summary = scrape(&mut parser, &mut count, page, 1000);
                assert_eq!(summary.remembered, exporter.series() as u64);
            });
            assert_eq!(allocations.count_total, 0);
        }
        assert_eq!(parser.held_bytes(), held);
        assert_eq!(count.series, exporter.series() as u32);
        assert_eq!(count.samples, 6 * exporter.series() as u64);
    }
}

#[test]
fn a_first_scrape_allocates_by_growth_and_per_family() {
    let mut exporter = Exporter::of_service();
    let page = exporter.scrape();
    let families = page.matches("# TYPE").count() as u64;
    let allocations = measure(|| {
        let (mut parser, mut count) = (Parser::new(Limits::default()), Count::default());
        scrape(&mut parser, &mut count, &page, 1000);
    });
    // A family allocates its name and its help. Everything else grows by a factor.
    assert!(
        allocations.count_total < 4 * families + 100,
        "{allocations:?}, {families} families"
    );
    assert!(exporter.series() as u64 > 10 * families);
}
