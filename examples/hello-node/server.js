import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const { version } = JSON.parse(readFileSync(new URL('./package.json', import.meta.url), 'utf8'));
const message = process.env.MESSAGE ?? 'Hello from Switchyard';

const server = createServer((request, response) => {
  if (request.url === '/health') {
    response.writeHead(200, { 'content-type': 'text/plain' }).end('ok\n');
    return;
  }
  response.writeHead(200, { 'content-type': 'application/json' }).end(`${JSON.stringify({ message, version })}\n`);
});

server.listen(Number(process.env.PORT ?? 3000), process.env.HOST ?? '127.0.0.1', () => {
  console.log(`hello-node ${version} listens on port ${server.address().port}`);
});

// Requests in flight are answered before the process ends.
process.once('SIGTERM', () => {
  console.log('hello-node stops');
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
