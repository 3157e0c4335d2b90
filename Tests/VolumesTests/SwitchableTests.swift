import Synchronization
import Testing

@testable import Volumes

/// Something that was not so and is so from some time on.
final class Flag: Sendable {
    private let flag = Atomic<Bool>(false)
    var isSet: Bool { flag.load(ordering: .acquiring) }
    func set() { flag.store(true, ordering: .releasing) }
}

@Suite struct SwitchableTests {
    /// A value that tells whether somebody uses it after it was taken away.
    private final class Probe: Sendable {
        let number: Int
        let gone = Flag()

        init(_ number: Int) { self.number = number }
    }

    @Test func nobodyUsesAValueThatHasBeenDrained() async {
        let switchable = Switchable(Probe(0))
        let over = Flag()
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<3 {
                group.addTask {
                    var newest = 0
                    var useCount = 0
                    while !over.isSet {
                        let use = switchable.begin()
                        #expect(!use.value.gone.isSet)
                        #expect(use.value.number >= newest, "an older value came back")
                        newest = use.value.number
                        for _ in 0..<20 { #expect(use.value.number == newest) }
                        #expect(!use.value.gone.isSet)
                        switchable.end(use)
                        useCount += 1
                        if useCount % 64 == 0 { await Task.yield() }
                    }
                }
            }
            for number in 1...2_000 {
                let old = switchable.current
                switchable.replace(with: Probe(number))
                await switchable.drain()
                old.gone.set()
            }
            over.set()
        }
        #expect(switchable.current.number == 2_000)
    }

    @Test func aDrainWaitsForTheLastUserOfTheOldValue() async {
        let switchable = Switchable(1)
        let first = switchable.begin()
        let second = switchable.begin()
        switchable.replace(with: 2)
        let drained = Flag()
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                await switchable.drain()
                drained.set()
            }
            #expect(first.value == 1)
            let third = switchable.begin()
            #expect(third.value == 2)
            switchable.end(third)
            switchable.end(first)
            try? await Task.sleep(for: .milliseconds(20))
            #expect(!drained.isSet)
            switchable.end(second)
        }
        #expect(drained.isSet)
    }
}
