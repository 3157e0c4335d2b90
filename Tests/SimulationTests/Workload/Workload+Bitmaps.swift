import Foundation
import TestSupport

extension Workload {
    func addBitmap(_ name: String, to volume: SimulatedVolume, isDisabled: Bool = false) throws {
        let granularity = [4096, 65536].randomElement(using: &random)!
        var bitmap = BitmapHistory(name: name, granularityBytes: granularity)
        let issued = notes.note("add \(name)")
        try control.tell(
            "block-dirty-bitmap-add",
            [
                "node": volume.name, "name": name, "granularity": granularity,
                "persistent": true, "disabled": isDisabled,
            ])
        let answered = notes.note("added")
        bitmap.add(.add, issued: issued, answered: answered)
        if isDisabled { bitmap.add(.disable, issued: answered, answered: answered) }
        volume.bitmaps[name] = bitmap
    }

    private func change(
        _ name: String, of volume: SimulatedVolume, _ verb: BitmapHistory.Verb
    ) throws {
        let issued = notes.note("\(verb) \(name)")
        switch verb {
        case .merge(let source):
            try control.tell(
                "block-dirty-bitmap-merge",
                ["node": volume.name, "target": name, "bitmaps": [source]])
        default:
            try control.tell(
                "block-dirty-bitmap-\(verb)", ["node": volume.name, "name": name])
        }
        let answered = notes.note("changed")
        volume.bitmaps[name]!.add(verb, issued: issued, answered: answered)
        windows.append(issued..<answered)
        // What it saved is to be relied on from here on.
        windows.append(answered..<answered + 4)
    }

    func merge(_ volume: SimulatedVolume) throws {
        try addBitmap("left", to: volume)
        try addBitmap("right", to: volume, isDisabled: Int.random(in: 0..<4, using: &random) > 0)
        try load(volume, count: 4)
        try change("right", of: volume, .merge(from: "left"))
        try load(volume, count: Int.random(in: 0...1, using: &random))
    }

    func changeBitmaps(_ volume: SimulatedVolume) throws {
        try addBitmap("late", to: volume)
        for _ in 0..<3 {
            try load(volume, count: Int.random(in: 1...3, using: &random))
            let verb: BitmapHistory.Verb =
                Int.random(in: 0..<4, using: &random) == 0
                ? .clear : volume.bitmaps["late"]!.isRecording ? .disable : .enable
            try change("late", of: volume, verb)
        }
    }
}
