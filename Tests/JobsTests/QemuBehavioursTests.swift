import TestSupport
import Testing

/// The lists of what QEMU's tests of jobs check; what they name must exist.
@Suite struct QemuBehavioursTests {
    private static let reasons: Set<String> = [
        "quorum", "CD-ROM", "QEMU's permission model", "iothreads", "QEMU's command line",
    ]

    @Test func everyBehaviourOfStreamsAndCommitsHasATestOrAReason() throws {
        let list = try BehaviourList("QemuBehaviours.md")
        #expect(list.sections.isSuperset(of: ["030", "040"]))
        #expect(list.keys.count >= 49)
        try list.expectCovered(orFor: Self.reasons)
    }

    @Test func everyBehaviourOfMirrorsAndBackupsHasATestOrAReason() throws {
        let list = try BehaviourList("QemuMirrorBehaviours.md")
        let groups: Set = [
            "041", "055", "056", "124", "151", "155", "165", "236", "246", "257", "384",
        ]
        #expect(Set(list.keys) == groups)
        try list.expectCovered(orFor: Self.reasons)
    }
}
