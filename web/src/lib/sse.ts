// Server-sent events from pieces of text, however they are cut. Pure.

export class EventReader {
  #rest = "";

  /** The data of the events that are complete with this piece. */
  push(piece: string): string[] {
    this.#rest += piece;
    const events: string[] = [];
    for (;;) {
      const end = /\r?\n\r?\n/.exec(this.#rest);
      if (end === null) return events;
      const block = this.#rest.slice(0, end.index);
      this.#rest = this.#rest.slice(end.index + end[0].length);
      const data = block
        .split(/\r?\n/)
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).replace(/^ /, ""));
      if (data.length > 0) events.push(data.join("\n"));
    }
  }
}
