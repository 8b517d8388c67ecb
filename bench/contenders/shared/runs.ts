import { createServer } from 'node:http';
import { listen } from './serve.ts';

/** What can be made: runs that are executed, events of the log. */
type Made = 'runs' | 'events';

/** Lets the bench ask: a POST of `{"runs": n}` or `{"events": n}` is answered when so many are over; anything else at once. */
export function serveRuns(make: Readonly<Record<Made, (count: number) => Promise<void>>>): void {
  listen(
    createServer((request, response) => {
      let body = '';
      request.setEncoding('utf8').on('data', (text: string) => (body += text));
      request.on('end', () => {
        const { runs = 0, events = 0 } = JSON.parse(body) as Partial<Record<Made, number>>;
        (events > 0 ? make.events(events) : runs > 0 ? make.runs(runs) : Promise.resolve()).then(
          () => response.end('{}'),
          (error: unknown) => response.writeHead(500).end(String(error)),
        );
      });
    }),
  );
}
