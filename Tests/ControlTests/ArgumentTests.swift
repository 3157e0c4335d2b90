import Testing

@testable import Control

/// What the agent says about wrong arguments.
struct ArgumentTests {
    private static func failure<T: Decodable>(_ type: T.Type, _ value: JSONValue) -> String? {
        do throws(ControlError) {
            _ = try JSONValueDecoder.decode(type, from: value, refusesUnknownMembers: true)
            return nil
        } catch {
            return error.description
        }
    }

    @Test func goodArgumentsAreDecoded() throws {
        let arguments = try JSONValueDecoder.decode(
            VolumeCreate.Arguments.self,
            from: [
                "name": "a", "size": 1024, "format": "raw", "backing-format": "raw", "path": nil,
            ],
            refusesUnknownMembers: true)
        #expect(arguments.name == "a" && arguments.size == 1024 && arguments.format == .raw)
        #expect(arguments.backingFormat == .raw && arguments.path == nil)
    }

    @Test func aMissingArgumentIsNamed() {
        #expect(Self.failure(VolumeCreate.Arguments.self, [:]) == "Parameter 'name' is missing")
        #expect(
            Self.failure(
                BlockDirtyBitmapMerge.Arguments.self,
                ["node": "n", "target": "t", "bitmaps": ["a", ["node": "x"]]])
                == "Parameter 'bitmaps[1].name' is missing")
    }

    @Test func anUnknownArgumentIsNamed() {
        #expect(
            Self.failure(VolumeCreate.Arguments.self, ["name": "a", "sise": 1])
                == "Parameter 'sise' is unexpected")
        #expect(
            Self.failure(
                BlockDirtyBitmapMerge.Arguments.self,
                [
                    "node": "n", "target": "t",
                    "bitmaps": [["node": "x", "name": "y", "extra": 1]],
                ]) == "Parameter 'bitmaps[0].extra' is unexpected")
        #expect(Self.failure(Nothing.self, ["x": 1]) == "Parameter 'x' is unexpected")
    }

    @Test func anArgumentOfTheWrongTypeIsNamed() {
        #expect(
            Self.failure(VolumeCreate.Arguments.self, ["name": 5])
                == "Invalid parameter type for 'name', expected: string")
        #expect(
            Self.failure(VolumeCreate.Arguments.self, ["name": "a", "size": -5])
                == "Invalid parameter type for 'size', expected: unsigned integer")
        #expect(
            Self.failure(VolumeCreate.Arguments.self, ["name": "a", "size": 1.5])
                == "Invalid parameter type for 'size', expected: unsigned integer")
        #expect(
            Self.failure(VolumeBackup.Arguments.self, ["volumes": "a", "repository": "r"])
                == "Invalid parameter type for 'volumes', expected: array")
        #expect(
            Self.failure(VolumeBackup.Arguments.self, ["volumes": [1], "repository": "r"])
                == "Invalid parameter type for 'volumes[0]', expected: string")
        #expect(
            Self.failure(
                BlockDirtyBitmapMerge.Arguments.self,
                ["node": "n", "target": "t", "bitmaps": [1]])
                == "Invalid parameter type for 'bitmaps[0]', expected: object")
    }

    @Test func aValueOutsideAnEnumerationIsNamed() {
        #expect(
            Self.failure(VolumeCreate.Arguments.self, ["name": "a", "format": "vmdk"])
                == "Parameter 'format' does not accept value 'vmdk'")
        #expect(
            Self.failure(VolumeCreate.Arguments.self, ["name": "a", "format": 1])
                == "Invalid parameter type for 'format', expected: string")
    }

    @Test func bothFormsOfABitmapSourceAreDecodedAndEncoded() throws {
        let value: JSONValue = [
            "node": "n", "target": "t", "bitmaps": ["a", ["node": "x", "name": "y"]],
        ]
        let arguments = try JSONValueDecoder.decode(
            BlockDirtyBitmapMerge.Arguments.self, from: value, refusesUnknownMembers: true)
        #expect(
            arguments.bitmaps == [.local("a"), .external(BitmapReference(node: "x", name: "y"))])
        #expect(try JSONValue(encoding: arguments) == value)
    }

    @Test func aResultMayHoldMoreThanTheClientKnows() throws {
        let result = try JSONValueDecoder.decode(
            StartedJob.self, from: ["job-id": "j", "new": 1], refusesUnknownMembers: false)
        #expect(result.jobID == "j")
    }
}
