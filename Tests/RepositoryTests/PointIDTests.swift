import BlockCore
import Testing

@testable import Repository

@Suite struct PointIDTests {
    @Test func aTimeSurvivesBothTextForms() throws {
        let time = try #require(UTCTime(text: "2026-11-21T03:00:00.123Z"))
        #expect(time.milliseconds == 1_795_230_000_123)
        #expect(time.text == "2026-11-21T03:00:00.123Z")
        #expect(time.compactText == "20261121T030000.123Z")
        #expect(UTCTime(compactText: time.compactText) == time)
    }

    @Test(arguments: [
        "2026-02-29T00:00:00.000Z", "2026-11-21T24:00:00.000Z", "2026-11-21T03:60:00.000Z",
        "2026-11-21 03:00:00.000Z", "2026-11-21T03:00:00.000", "2026-11-21T03:00:00Z", "",
        "1969-12-31T23:59:59.999Z", "２026-11-21T03:00:00.000Z", "2026-11-21T03:00:00.000Z ",
    ])
    func whatIsNoTimeIsRefused(_ text: String) {
        #expect(UTCTime(text: text) == nil)
    }

    @Test func anIdSortsByItsTime() throws {
        var last: PointID?
        for milliseconds in [0, 1, 999, 1000, 86_400_000, 1_795_230_000_123] as [Int64] {
            let time = try #require(UTCTime(milliseconds: milliseconds))
            let id = try PointID(now: time)
            #expect(id.time == time)
            if let last { #expect(last < id && last.text < id.text) }
            last = id
        }
    }

    @Test func idsOfOneInstantDiffer() throws {
        let now = UTCTime.now()
        let ids = try (0..<200).map { _ in try PointID(now: now) }
        #expect(Set(ids).count == ids.count)
    }

    @Test func anIdIsAboveItsParentsThoughTheClockWentBack() throws {
        let later = try #require(UTCTime(text: "2027-01-01T00:00:00.000Z"))
        let earlier = try #require(UTCTime(text: "2026-01-01T00:00:00.000Z"))
        let parent = try PointID(now: later)
        let child = try PointID(after: parent, now: earlier)
        #expect(child > parent)
        #expect(child.time.text == "2027-01-01T00:00:00.001Z")
        #expect(try PointID(after: parent, now: later) > parent)
    }

    @Test func afterTheLastInstantThereIsNoId() throws {
        let last = try #require(UTCTime(text: "9999-12-31T23:59:59.999Z"))
        let parent = try PointID(now: last)
        #expect(throws: BlockError.self) { try PointID(after: parent, now: last) }
    }

    @Test func whatWasWrittenIsReadBack() throws {
        let id = try PointID()
        #expect(PointID(id.text) == id)
        #expect(PointID("20261121T030000.123Z-4f2a91c3") != nil)
    }

    @Test(arguments: [
        "", "..", "20261121T030000.123Z-4f2a91c", "20261121T030000.123Z-4F2A91C3",
        "20261121T030000.123Z/4f2a91c3", "20261131T030000.123Z-4f2a91c3",
        "../61121T030000.123Z-4f2a91c3", "20261121T030000.123Z-4f2a91c3\n",
        "20261121T030000.123Z-4f2a91g3", "20261121T030000.123Z-4f2a91c30",
    ])
    func whatIsNoIdIsRefused(_ text: String) {
        #expect(PointID(text) == nil)
    }
}
