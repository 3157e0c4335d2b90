import TestSupport
import Testing

/// `QemuBehaviours.md` lists what QEMU's tests check; what it names must exist.
@Suite struct QemuBehavioursTests {
    private static let numbers = [
        "024", "029", "031", "036", "039", "042", "046", "060", "061", "066", "080", "098", "103",
        "114", "122", "138", "176", "179", "188", "204", "214", "217", "220", "225", "244", "261",
        "264", "271", "287",
    ]

    private static let reasons: Set<String> = [
        "another format or protocol", "encryption", "QEMU's command line", "VM state", "iothreads",
    ]

    @Test func everyBehaviourHasATestThatExistsOrAReason() throws {
        let list = try BehaviourList("QemuBehaviours.md")
        #expect(list.keys == Self.numbers)
        try list.expectCovered(orFor: Self.reasons)
    }
}
