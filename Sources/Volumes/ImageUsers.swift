package import BlockCore
import Synchronization

// Who works on which images of a volume. Two kinds of users exclude one another:
//
//   claimChain     for moments: the list of images is being changed, by whatever (`chainUser`)
//   claimImages    for the length of a job: nobody else may change these images, or what is behind
//                  them, or write them
//
// A job that claims images goes on using the chain while others of the same volume change it
// elsewhere; so it names images by their paths, never by their positions. Whatever replaces the
// images as a whole looks for claims once it has the chain for itself, since none is granted then.

/// The jobs that have claimed images of a volume.
struct ImageUsers: Sendable {
    struct User: Sendable, Equatable {
        /// What tells one job from another.
        var claim: String
        /// What kind of job, in QEMU's words.
        var type: String
    }

    private var users: [String: User] = [:]

    /// Whose `path` is.
    subscript(path: String) -> User? { users[path] }

    /// Anybody but who has claimed as `claim`, of an image that is not at one of `paths`.
    func other(
        than claim: String? = nil, except paths: [String] = []
    ) -> (path: String, user: User)? {
        users.first { $0.value.claim != claim && !paths.contains($0.key) }
            .map { ($0.key, $0.value) }
    }

    mutating func add(_ user: User, to paths: [String]) {
        for path in paths { users[path] = user }
    }

    mutating func remove(claim: String) { users = users.filter { $0.value.claim != claim } }
}

extension Volume {
    /// How long the images may be in change for somebody else.
    private static let claimLimit = Duration.seconds(30)

    /// Has the images at `paths` for the job that calls itself `claim`, until `releaseImages`. Waits
    /// while the images are being changed; throws `busy` if one of them is another job's.
    package func claimImages(
        _ paths: [String], for claim: String, type: String
    ) async throws(BlockError) {
        let end = ContinuousClock.now + Self.claimLimit
        while let chainUser = try tryClaimImages(paths, for: claim, type: type) {
            guard ContinuousClock.now < end else {
                throw BlockError(
                    .busy, "use the images", on: name,
                    detail: "\(chainUser) is under way: wait for it")
            }
            try await Self.pause(name)
        }
    }

    /// Returns who is changing the images if somebody is.
    private func tryClaimImages(
        _ paths: [String], for claim: String, type: String
    ) throws(BlockError) -> String? {
        try chainUser.withLock { (chainUser) throws(BlockError) in
            if let chainUser { return chainUser }
            try imageUsers.withLock { (users) throws(BlockError) in
                for path in paths {
                    if let user = users[path] { throw isBusy(path, user) }
                }
                users.add(ImageUsers.User(claim: claim, type: type), to: paths)
            }
            return nil
        }
    }

    package func releaseImages(of claim: String) { imageUsers.withLock { $0.remove(claim: claim) } }

    /// Throws if a job works on the top image; with the chain claimed, so that none begins to.
    func checkTopIsFree() throws(BlockError) {
        let top = chain.nodes[0].path
        if let user = imageUsers.withLock({ $0[top] }) { throw isBusy(top, user) }
    }

    /// Throws if a job works on an image that the volume is to have no more, unless that job has
    /// claimed it as `claim`; with the chain claimed, so that none begins to.
    func checkImagesMayGo(but kept: [String] = [], for claim: String? = nil) throws(BlockError) {
        if let (path, user) = imageUsers.withLock({ $0.other(than: claim, except: kept) }) {
            throw isBusy(path, user)
        }
    }

    /// The kind of job that works on images, if there is one.
    var imageUse: String? {
        imageUsers.withLock { $0.other() }.map { "a \($0.user.type)" }
    }

    /// The top goes by the volume's name.
    private func isBusy(_ path: String, _ user: ImageUsers.User) -> BlockError {
        let node = path == imagePaths.first ? name : path
        return BlockError(
            .busy, "use the image", on: path,
            detail: "Node '\(node)' is busy: block device is in use by block job: \(user.type)")
    }

    /// `claimChain` for a job, which waits for others that are at this moment.
    func claimChainInTurn(for use: String) async throws(BlockError) {
        let end = ContinuousClock.now + Self.claimLimit
        while true {
            do throws(BlockError) { return try claimChain(for: use) } catch {
                guard error.kind == .busy, ContinuousClock.now < end else { throw error }
            }
            try await Self.pause(name)
        }
    }

    /// Between two tries. Throws `cancelled` in a task that is.
    private static func pause(_ name: String) async throws(BlockError) {
        do { try await Task.sleep(for: .milliseconds(20)) } catch {
            throw BlockError(.cancelled, "change the images", on: name)
        }
    }
}
