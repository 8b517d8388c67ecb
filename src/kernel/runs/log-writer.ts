import type { App } from '../app.ts';
import type { LoggedLine } from '../live/hub.ts';
import { pieceChars, type Redactor } from '../redact.ts';
import { Fenced } from './errors.ts';
import { levelOf, storedLevel, type LogLevel } from './log-level.ts';
import type { Hold } from './runs.ts';

type Line = Pick<LoggedLine, 'stream' | 'level' | 'step' | 'text'> & { readonly at: Date };

const waitMs = 80;
const batchLines = 500;
/** Above this many lines the writer asks its callers to wait. */
const highWater = 2000;
/** Characters of one line; the rest is cut and said so. */
const maxChars = 16_000;
/** Lines of one run; what comes after is counted, not kept. */
const maxLines = 200_000n;

/**
 * Writes a run's output in batches. The run's one writer is the worker that holds it: a batch is one statement that
 * is conditional on the hold, so lines of a lost worker never mix with those of its successor.
 */
export class LogWriter {
  readonly #app: App;
  readonly #hold: Hold;
  readonly #redactor: () => Redactor;
  /** By where they come from: lines of which a piece has come and the rest has not. */
  readonly #pieces = new Map<
    string,
    { session: ReturnType<Redactor['session']>; stream: Line['stream']; level: LogLevel | null; step: string | null }
  >();
  #lines: Line[] = [];
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> = Promise.resolve();
  #failed: unknown = null;
  #written: bigint;
  #dropped = 0;

  constructor(app: App, hold: Hold, written: bigint, redactor: () => Redactor) {
    this.#app = app;
    this.#hold = hold;
    this.#written = written;
    this.#redactor = redactor;
  }

  /**
   * The level of a program's line is what the line tells; one of ours has what is said here.
   * Resolves at once, or when the writer has caught up if it is far behind. Wait for it: that slows the
   * source down.
   */
  async write(
    stream: Line['stream'],
    step: string | null,
    text: string,
    level: LogLevel | null = stream === 'SYSTEM' ? 'INFO' : levelOf(text),
  ): Promise<void> {
    if (this.#failed) throw this.#failed;
    if (this.#written + BigInt(this.#lines.length) >= maxLines) {
      this.#dropped++;
      return;
    }
    this.#addMasked(stream, step, text, level);
    this.#timer ??= setTimeout(() => void this.#drain(), waitMs);
    if (this.#lines.length >= highWater) {
      await this.#drain();
      if (this.#failed) throw this.#failed;
    }
  }

  /** A line that comes in pieces is looked at as one: a secret may lie over the cut, and is told of in the next piece. */
  #addMasked(stream: Line['stream'], step: string | null, text: string, level: LogLevel | null): void {
    const key = `${stream} ${step}`;
    const open = this.#pieces.get(key);
    const more = text.length === pieceChars;
    if (!open && !more) return this.#add(stream, step, this.#redactor().redact(text), level);
    const session = open?.session ?? this.#redactor().session();
    // What begins a piece is no beginning of a line: all have the level of the first.
    const ofLine = open ? open.level : level;
    if (more) this.#pieces.set(key, { session, stream, level: ofLine, step });
    else this.#pieces.delete(key);
    this.#add(stream, step, session.push(text) + (more ? '' : session.end()), ofLine);
  }

  #add(stream: Line['stream'], step: string | null, text: string, level: LogLevel | null): void {
    const clean = text.replaceAll('\0', '\uFFFD');
    this.#lines.push({
      stream,
      level,
      step,
      at: new Date(),
      text:
        clean.length > maxChars ? `${clean.slice(0, maxChars)}… (${clean.length - maxChars} characters cut)` : clean,
    });
  }

  /** @throws {Fenced} when the run is no longer ours; a database error when lines could not be written */
  async flush(): Promise<void> {
    for (const { session, stream, level, step } of this.#pieces.values()) {
      const rest = session.end();
      if (rest !== '') this.#add(stream, step, rest, level);
    }
    this.#pieces.clear();
    await this.#drain();
    if (this.#dropped > 0) {
      this.#lines.push({
        stream: 'SYSTEM',
        level: 'WARN',
        step: null,
        at: new Date(),
        text: `${this.#dropped} more lines were not kept.`,
      });
      this.#dropped = 0;
      await this.#drain();
    }
    if (this.#failed) throw this.#failed;
  }

  #drain(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    this.#writing = this.#writing
      .then(async () => {
        while (this.#lines.length > 0 && !this.#failed) {
          const batch = this.#lines.slice(0, batchLines);
          await this.#insert(batch);
          this.#lines = this.#lines.slice(batch.length);
        }
      })
      .catch((error: unknown) => {
        this.#failed = error;
      });
    return this.#writing;
  }

  async #insert(batch: readonly Line[]): Promise<void> {
    const { rowCount } = await this.#app.database.query(
      `with mine as (
         update run set log_seq = log_seq + $4 where id = $1 and attempt = $2 and worker_id = $3 returning log_seq
       )
       insert into log_line (run_id, seq, at, stream, level, step, text)
       select $1, mine.log_seq - $4 + l.i, l.at, l.stream, l.level, l.step, l.text
       from mine, unnest($5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::smallint[])
         with ordinality as l(at, stream, step, text, level, i)`,
      [
        this.#hold.runId,
        this.#hold.attempt,
        this.#hold.workerId,
        batch.length,
        batch.map((line) => line.at),
        batch.map((line) => line.stream),
        batch.map((line) => line.step),
        batch.map((line) => line.text),
        batch.map((line) => storedLevel(line.level)),
      ],
    );
    if (rowCount === 0) throw new Fenced(this.#hold.runId);
    this.#written += BigInt(batch.length);
    this.#app.wakeUps.publish(`l:${this.#hold.runId}`);
  }
}
