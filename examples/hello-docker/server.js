const { createServer } = require('node:http');

const server = createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/plain' }).end('Hello from a container\n');
});

// In a container 127.0.0.1 is the container alone: HOST says where to listen.
server.listen(Number(process.env.PORT ?? 3000), process.env.HOST ?? '127.0.0.1', () =>
  console.log('hello-docker listens'),
);

// Requests in flight are answered before the process ends.
process.once('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
