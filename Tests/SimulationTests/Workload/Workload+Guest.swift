import Foundation
import TestSupport

extension Workload {
    /// Some requests of the guest, one after the other.
    func load(_ volume: SimulatedVolume, count: Int) throws {
        for _ in 0..<count {
            switch Int.random(in: 0..<100, using: &random) {
            case ..<60: try write(volume)
            case ..<70: try zero(volume, isHole: false)
            case ..<80: try zero(volume, isHole: true)
            case ..<88: try trim(volume)
            default: try flush(volume)
            }
        }
    }

    func write(_ volume: SimulatedVolume, _ sectors: Range<Int>? = nil) throws {
        let request = issueWrite(volume, sectors)
        try volume.connected.write(request.bytes, at: request.offset)
        volume.guest.answer(request.index, at: notes.note("answer \(request.index + 1)"))
    }

    /// A write that is yet to be sent.
    struct IssuedWrite {
        let index: Int
        let bytes: [UInt8]
        let offset: Int
    }

    func issueWrite(
        _ volume: SimulatedVolume, _ sectors: Range<Int>? = nil, mayLeaveAll: Bool = false
    ) -> IssuedWrite {
        let sectors = sectors ?? volume.someSectors(&random)
        let moment = notes.note("write \(volume.name) \(sectors)")
        let index = volume.guest.issue(sectors, at: moment, mayLeaveAll: mayLeaveAll)
        let range = volume.bytes(of: sectors)
        return IssuedWrite(
            index: index,
            bytes: SectorImage.bytes(
                stamp: volume.guest.requests[index].stamp, count: range.count),
            offset: range.lowerBound)
    }

    func zero(
        _ volume: SimulatedVolume, _ sectors: Range<Int>? = nil, isHole: Bool
    ) throws {
        let sectors = sectors ?? volume.someSectors(&random)
        let index = volume.guest.issue(
            sectors, at: notes.note("zero \(volume.name) \(sectors)"), isZero: true)
        try volume.connected.zero(volume.bytes(of: sectors), isHole: isHole)
        volume.guest.answer(index, at: notes.note("answer \(index + 1)"))
    }

    func trim(_ volume: SimulatedVolume, _ sectors: Range<Int>? = nil) throws {
        let sectors = sectors ?? volume.someSectors(&random)
        let index = volume.guest.issue(
            sectors, at: notes.note("trim \(volume.name) \(sectors)"), isZero: true,
            mayLeaveAll: true)
        try volume.connected.trim(volume.bytes(of: sectors))
        try settle(volume, index)
    }

    /// Reads what a request left that may leave this or that: it stays so.
    func settle(_ volume: SimulatedVolume, _ index: Int) throws {
        let sectors = volume.guest.requests[index].sectors
        let image = SectorImage(try volume.connected.read(volume.bytes(of: sectors)))
        let leaves = try (0..<image.sectorCount).map { sector in
            guard let stamp = image[sector] else {
                throw Tool.Failure(
                    description: "request \(index + 1) tore sector \(sectors.lowerBound + sector)")
            }
            return stamp
        }
        volume.guest.answer(index, at: notes.note("answer \(index + 1)"), leaves: leaves)
    }

    func flush(_ volume: SimulatedVolume) throws {
        let issued = notes.note("flush \(volume.name)")
        try volume.connected.flush()
        volume.guest.flush(issued: issued, answered: notes.note("flushed"))
    }
}

extension SimulatedVolume {
    /// The guest's connection, which there is while the agent runs.
    var connected: GuestConnection {
        get throws {
            guard let connection else { throw Tool.Failure(description: "\(name) is not served") }
            return connection
        }
    }
}
