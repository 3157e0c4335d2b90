/// A table for people: a line of titles, then the rows, columns two spaces apart.
struct TextTable {
    /// To which side a column's cells lean.
    enum Alignment {
        case left
        case right
    }

    /// A column of the table.
    struct Column {
        var title: String
        var alignment = Alignment.left

        /// A column of text.
        static func text(_ title: String) -> Column { Column(title: title) }

        /// A column of numbers or sizes.
        static func number(_ title: String) -> Column { Column(title: title, alignment: .right) }
    }

    private let columns: [Column]
    private var rows: [[String]] = []

    init(_ columns: [Column]) { self.columns = columns }

    /// Adds a row with one cell per column. Control characters are shown as `?`, so that a name
    /// cannot upset the terminal.
    mutating func append(_ cells: [String]) {
        precondition(cells.count == columns.count)
        rows.append(cells.map(Self.printable))
    }

    /// The lines; empty if there are no rows.
    var text: String {
        guard !rows.isEmpty else { return "" }
        let lines = [columns.map(\.title)] + rows
        let widths = columns.indices.map { index in lines.map { $0[index].count }.max() ?? 0 }
        return lines.map { line($0, widths) }.joined(separator: "\n")
    }

    private func line(_ cells: [String], _ widths: [Int]) -> String {
        var text = ""
        for (index, cell) in cells.enumerated() {
            let padding = String(repeating: " ", count: widths[index] - cell.count)
            switch columns[index].alignment {
            case .right: text += padding + cell
            case .left: text += cell + padding
            }
            if index < cells.count - 1 { text += "  " }
        }
        while text.last == " " { text.removeLast() }
        return text
    }

    private static func printable(_ text: String) -> String {
        String(text.map { $0.unicodeScalars.contains { $0.value < 0x20 } ? "?" : $0 })
    }
}
