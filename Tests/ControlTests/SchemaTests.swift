import Testing

@testable import Control

/// What the agent tells about its own interface.
struct SchemaTests {
    private static func entry(_ name: String, in schema: [JSONValue]) -> JSONValue? {
        schema.first { $0["name"]?.stringValue == name }
    }

    private static var table: CommandTable {
        var table = CommandTable()
        table.register(VolumeCreate.self) { _ in Nothing() }
        table.register(BlockDirtyBitmapMerge.self) { _ in Nothing() }
        table.register(QueryJobs.self) { _ in [] }
        table.register(Transaction.self) { _ in Nothing() }
        return table
    }

    @Test func commandsAreListedByName() async throws {
        let list = try await Self.table.execute("query-commands", arguments: [:])
        #expect(
            list.arrayValue?.compactMap { $0["name"]?.stringValue } == [
                "block-dirty-bitmap-merge", "query-commands", "query-jobs", "query-qmp-schema",
                "query-version", "transaction", "volume-create",
            ])
    }

    @Test func argumentsAreDescribedWithTheirTypes() throws {
        let schema = try Self.table.schema()
        let command = try #require(Self.entry("volume-create", in: schema))
        #expect(command["meta-type"] == "command")
        let type = try #require(command["arg-type"]?.stringValue)
        let members = Self.entry(type, in: schema)?["members"]?.arrayValue
        #expect(members?.contains(["name": "name", "type": "str"]) == true)
        #expect(members?.contains(["name": "size", "type": "int", "default": nil]) == true)
        #expect(
            members?.contains(["name": "format", "type": "ImageFormat", "default": nil]) == true)
        #expect(Self.entry("ImageFormat", in: schema)?["values"] == ["qcow2", "raw"])
    }

    @Test func everyTypeThatIsMentionedIsDescribed() throws {
        let schema = try Self.table.schema()
        let names = Set(schema.compactMap { $0["name"]?.stringValue })
        for entry in schema {
            let members = entry["members"]?.arrayValue ?? []
            let mentioned =
                [entry["arg-type"], entry["ret-type"], entry["element-type"]]
                + members.map { $0["type"] }
            let variants = (entry["variants"]?.arrayValue ?? []).map { $0["type"] }
            for type in (mentioned + variants).compactMap({ $0?.stringValue }) {
                #expect(names.contains(type), "\(type), in \(entry.compactText)")
            }
            #expect(entry["meta-type"] != nil)
        }
    }

    @Test func aTransactionSaysWhatEachActionTakes() throws {
        let schema = try Self.table.schema()
        let action = try #require(Self.entry("TransactionAction", in: schema))
        #expect(action["tag"] == "type")
        let variants = action["variants"]?.arrayValue ?? []
        #expect(variants.count == TransactionActionKind.allCases.count)
        let clear = variants.first { $0["case"] == "block-dirty-bitmap-clear" }
        let wrapper = try #require(clear?["type"]?.stringValue)
        #expect(
            Self.entry(wrapper, in: schema)?["members"]
                == [["name": "data", "type": "BitmapReference"]])
        #expect(Self.entry("BitmapReference", in: schema) != nil)
    }

    /// Nodes stand on nodes, and images on images: their types hold themselves.
    @Test func nodesAreDescribedByTheirDrivers() throws {
        var table = CommandTable()
        table.register(BlockdevAdd.self) { _ in Nothing() }
        table.register(QueryNamedBlockNodes.self) { _ in [] }
        table.register(NBDServerStart.self) { _ in Nothing() }
        let schema = try table.schema()
        let options = try #require(Self.entry("BlockdevOptions", in: schema))
        #expect(Self.entry("blockdev-add", in: schema)?["arg-type"] == "BlockdevOptions")
        #expect(options["tag"] == "driver")
        let members = options["members"]?.arrayValue ?? []
        #expect(members.contains(["name": "driver", "type": "BlockdevDriver"]))
        #expect(members.contains(["name": "node-name", "type": "str", "default": nil]))
        let variants = options["variants"]?.arrayValue ?? []
        #expect(variants.count == BlockdevDriver.allCases.count)
        let qcow2 = try #require(variants.first { $0["case"] == "qcow2" }?["type"]?.stringValue)
        #expect(
            Self.entry(qcow2, in: schema)?["members"] == [
                ["name": "file", "type": "BlockdevReference"],
                ["name": "backing", "type": "BlockdevReference", "default": nil],
            ])
        let image = Self.entry("BlockImageInfo", in: schema)?["members"]?.arrayValue
        #expect(
            image?.contains(["name": "backing-image", "type": "BlockImageInfo", "default": nil])
                == true)
        #expect(Self.entry("SocketAddress", in: schema)?["tag"] == "type")
        let names = Set(schema.compactMap { $0["name"]?.stringValue })
        for type in variants.compactMap({ $0["type"]?.stringValue }) {
            #expect(names.contains(type))
        }
    }

    @Test func anAlternateListsItsForms() throws {
        let alternate = Self.entry("BitmapSource", in: try Self.table.schema())
        #expect(alternate?["meta-type"] == "alternate")
        #expect(alternate?["members"] == [["type": "str"], ["type": "BitmapReference"]])
    }

    @Test func anUnknownCommandIsNotFound() async {
        await #expect(
            throws: ControlError(.commandNotFound, "The command nope has not been found")
        ) { try await Self.table.execute("nope", arguments: [:]) }
    }

    @Test func anyErrorOfAHandlerReachesTheClientAsText() async {
        struct Odd: Error, CustomStringConvertible { let description = "the disk is odd" }
        var table = CommandTable()
        table.register(Quit.self) { _ in throw Odd() }
        await #expect(throws: ControlError.generic("the disk is odd")) {
            try await table.execute("quit", arguments: [:])
        }
    }
}
