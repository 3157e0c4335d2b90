import BlockCore
import DriverQcow2
import DriverRaw
import Filters
import Foundation
import TestSupport
import Testing
import Volumes

/// The suite of the drivers, run for each filter, and for all of them on top of each other.
@Suite struct FilterConformanceTests {
    enum Kind: String, CaseIterable, Sendable {
        case throttle, copyOnRead, copyBeforeWrite, faultInjection

        func filter(
            _ child: any BlockDevice, _ directory: TemporaryDirectory
        ) throws -> any BlockDevice {
            switch self {
            case .throttle:
                // So high that it hardly ever waits, but counts.
                let limits = ThrottleLimits(limits: [.bytesTotal: .init(average: 1 << 40)])
                return Throttle(child, group: ThrottleGroup(name: "g", limits: limits))
            case .copyOnRead:
                return CopyOnRead(child)
            case .copyBeforeWrite:
                return try CopyBeforeWrite(
                    over: child, target: MemoryDevice(lengthBytes: Int(child.lengthBytes)),
                    limits: FleeceLimits(directory: directory.path))
            case .faultInjection:
                // A rule that waits for a state that never comes keeps requests off the fast way.
                return FaultInjection(
                    child, rules: FaultRules(faults: [InjectedFault(event: .writeAIO, state: 9)]))
            }
        }
    }

    static let stacks: [[Kind]] =
        Kind.allCases.map { [$0] } + [Kind.allCases, Kind.allCases.reversed()]

    private func stack(
        _ kinds: [Kind], on child: any BlockDevice, _ directory: TemporaryDirectory
    ) throws -> any BlockDevice {
        try kinds.reduce(child) { try $1.filter($0, directory) }
    }

    @Test(arguments: stacks) func overARawFile(kinds: [Kind]) async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("disk.raw")
        var random = Seed.generator("filters over raw")
        let content = random.bytes(300_001)
        let fixture = DeviceFixture(
            "\(kinds) over raw", content: content,
            make: {
                try writeFile(path, content)
                return try stack(
                    kinds, on: RawDevice.open(path: path, readOnly: false), directory)
            },
            reopen: {
                try stack(kinds, on: RawDevice.open(path: path, readOnly: false), directory)
            })
        try await BlockDeviceConformance(fixture).runAll()
    }

    @Test(arguments: stacks) func overAnOverlay(kinds: [Kind]) async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("disk.qcow2")
        var random = Seed.generator("filters over an overlay")
        let below = random.bytes(200_000)
        let content = below + [UInt8](repeating: 0, count: 300_032 - below.count)
        let backing = MemoryDevice(below, name: "below", readOnly: true)
        let fixture = DeviceFixture(
            "\(kinds) over an overlay", content: content,
            make: {
                try HostDirectory.removeFile(path)
                try Qcow2Device.create(
                    path: path, lengthBytes: UInt64(content.count), clusterBytes: 4096,
                    backing: Qcow2Backing(name: "below", format: "raw"))
                return try stack(
                    kinds, on: Qcow2Device.open(path: path, readOnly: false, backing: backing),
                    directory)
            },
            reopen: {
                try stack(
                    kinds, on: Qcow2Device.open(path: path, readOnly: false, backing: backing),
                    directory)
            })
        try await BlockDeviceConformance(fixture).runAll()
        #expect(backing.content == below)
    }
}
