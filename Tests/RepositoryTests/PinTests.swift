import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Repository

@Suite struct PinTests {
    @Test func pinsComeAndGoAsOftenAsTheirHolderLikes() async throws {
        let test = try await TestRepository()
        let pin = PointPin(of: test.ids[1], holder: "volume x")
        try await test.repository.pin(pin)
        try await test.repository.pin(pin)
        let other = PointPin(of: test.ids[1], holder: "volume y")
        try await test.repository.pin(other)
        let pins = try await test.repository.pins()
        #expect(Set(pins.map(\.id)) == [pin.id, other.id])
        #expect(pins.allSatisfy { $0.point == test.ids[1] })
        // A pin is neither a point nor what a crash left.
        #expect(try await test.repository.sweep().isEmpty)
        #expect(try await test.repository.points().count == 3)

        try await test.repository.unpin(pin.id, of: test.ids[1])
        try await test.repository.unpin(pin.id, of: test.ids[1])
        #expect(try await test.repository.pins() == [other])
    }

    @Test func nothingButAPointThatIsThereCanBePinned() async throws {
        let test = try await TestRepository()
        let missing = try PointID(after: test.ids[2])
        await expectError(.notFound, missing.text) {
            try await test.repository.pin(PointPin(of: missing, holder: "x"))
        }
        var pin = PointPin(of: test.ids[0], holder: "x")
        pin.id = "../../etc/passwd"
        await expectError(.invalid) { try await test.repository.pin(pin) }
    }

    /// Whoever forgets points must not take a damaged pin for none.
    @Test func aDamagedPinIsNotTakenForNone() async throws {
        let test = try await TestRepository()
        let pin = PointPin(of: test.ids[0], holder: "x")
        try await test.repository.pin(pin)
        let path = test.path(0, "\(pin.id).pin")
        try Data("{".utf8).write(to: URL(fileURLWithPath: path))
        await expectError(.corrupt, path) { _ = try await test.repository.pins() }
    }
}
