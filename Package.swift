// swift-tools-version: 6.2
import PackageDescription

// One target per layer, so that the compiler enforces the arrows of the architecture: a target can
// use only what stands below it in this list. The README draws the picture.

let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

let argumentParser = Target.Dependency.product(
    name: "ArgumentParser", package: "swift-argument-parser")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let grdb = Target.Dependency.product(name: "GRDB", package: "GRDB.swift")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let serviceLifecycle = Target.Dependency.product(
    name: "ServiceLifecycle", package: "swift-service-lifecycle")

func layer(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(
        name: name, dependencies: dependencies, exclude: ["README.md"], swiftSettings: settings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(
        name: name, dependencies: dependencies + ["TestSupport"], swiftSettings: settings)
}

let package = Package(
    name: "tidemark",
    products: [
        .executable(name: "tidemark", targets: ["tidemark"]),
        // For tests: preloaded into the agents whose files they follow.
        .library(name: "filejournal", type: .dynamic, targets: ["FileJournal"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-crypto", exact: "4.5.2"),
        .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
        .package(url: "https://github.com/groue/GRDB.swift", exact: "7.10.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", exact: "2.13.0"),
    ],
    targets: [
        // What the system provides: headers and module maps only.
        .target(name: "CLinux"),
        .systemLibrary(name: "CNBD", pkgConfig: "libnbd", providers: [.apt(["libnbd-dev"])]),
        .systemLibrary(
            name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),

        // The layers, lowest first.
        layer("BlockCore", ["CLinux"]),
        layer("Bitmaps", ["BlockCore"]),
        layer("Catalog", ["Bitmaps", "BlockCore", grdb]),
        layer("DriverRaw", ["BlockCore"]),
        layer("DriverQcow2", ["BlockCore", "CZlib", "CZstd"]),
        layer("DriverNBD", ["BlockCore", "CNBD"]),
        layer(
            "Volumes",
            ["BlockCore", "Bitmaps", "Catalog", "DriverRaw", "DriverQcow2", "DriverNBD", crypto]),
        layer("Filters", ["BlockCore", "Volumes"]),
        layer(
            "Nodes",
            ["BlockCore", "Filters", "Volumes", "DriverNBD", "DriverQcow2", "DriverRaw"]),
        layer("NBDServer", ["BlockCore", "CLinux"]),
        layer("Repository", ["BlockCore", "CXXHash", "DriverQcow2", crypto]),
        layer("Jobs", ["Volumes", "Repository", "DriverRaw", "DriverQcow2", "DriverNBD"]),
        layer("Control", [nioCore, nioPosix, logging]),
        layer(
            "Agent",
            ["Control", "Filters", "Jobs", "NBDServer", "Nodes", logging, serviceLifecycle]),
        .executableTarget(
            name: "tidemark",
            dependencies: [
                "Agent", "BlockCore", "Control", "DriverQcow2", "Volumes", argumentParser, logging,
            ],
            exclude: ["README.md"], swiftSettings: settings),

        // Tests mirror the sources; TestSupport holds the models, the faults and the shared suite.
        .target(
            name: "TestSupport", dependencies: ["BlockCore"], path: "Tests/TestSupport",
            swiftSettings: settings),
        .systemLibrary(name: "CFileJournal", path: "Tests/CFileJournal"),
        .target(name: "FileJournal", path: "Tests/FileJournal"),
        tests("BlockCoreTests", ["BlockCore", "CLinux"]),
        tests("BitmapsTests", ["Bitmaps", "BlockCore"]),
        tests("CatalogTests", ["Catalog", "Bitmaps", "BlockCore"]),
        .testTarget(
            name: "DriverTests", dependencies: ["DriverRaw", "DriverQcow2", "TestSupport"],
            exclude: ["QemuBehaviours.md"], swiftSettings: settings),
        tests("DriverNBDTests", ["DriverNBD"]),
        tests("VolumesTests", ["Volumes", "DriverRaw", "DriverQcow2"]),
        tests("FiltersTests", ["Filters", "BlockCore", "DriverQcow2", "DriverRaw", "Volumes"]),
        tests("NBDServerTests", ["NBDServer", "BlockCore", "DriverRaw", "DriverQcow2"]),
        tests("RepositoryTests", ["Repository", "DriverQcow2"]),
        .testTarget(
            name: "JobsTests",
            dependencies: [
                "Jobs", "BlockCore", "Catalog", "DriverRaw", "Repository", "Volumes", "TestSupport",
            ],
            exclude: ["QemuBehaviours.md", "QemuMirrorBehaviours.md"], swiftSettings: settings),
        tests("ControlTests", ["BlockCore", "Control", "tidemark", argumentParser, logging]),
        .testTarget(
            name: "EndToEndTests", dependencies: ["tidemark", "TestSupport"],
            exclude: ["Support/counter.py", "Support/guest.py"], swiftSettings: settings),
        .testTarget(
            name: "QMPTests", dependencies: ["tidemark", "TestSupport"],
            exclude: ["Differences.md", "session"], swiftSettings: settings),
        .testTarget(
            name: "SimulationTests",
            dependencies: ["BlockCore", "CFileJournal", "CNBD", "TestSupport", "tidemark"],
            exclude: ["README.md"], swiftSettings: settings),
    ]
)

// Fuzzing builds the parsers and what feeds them, all with coverage, and nothing else:
// `Scripts/fuzz` asks for it.
if Context.environment["TIDEMARK_FUZZ"] != nil {
    func fuzz(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
        .executableTarget(
            name: name, dependencies: dependencies + ["FuzzDriver"], path: "Tests/Fuzz/\(name)",
            swiftSettings: settings + [.unsafeFlags(["-parse-as-library"])])
    }
    let layers = [
        "CLinux", "CZlib", "CZstd", "BlockCore", "DriverQcow2", "NBDServer", "TestSupport",
    ]
    package.dependencies = []
    package.products = []
    package.targets =
        package.targets.filter { layers.contains($0.name) }
        + [
            .target(
                name: "Control",
                sources: [
                    "JSON/JSONParser.swift", "JSON/JSONValue.swift", "JSON/JSONWriter.swift",
                    "QMP/QMPFramer.swift",
                ],
                swiftSettings: settings),
            .target(
                name: "FuzzDriver", path: "Tests/Fuzz/FuzzDriver", swiftSettings: settings),
            fuzz("FuzzControl", ["Control"]),
            fuzz("FuzzNBD", ["BlockCore", "NBDServer", "TestSupport"]),
            fuzz("FuzzQcow2", ["BlockCore", "DriverQcow2"]),
        ]
}
