import type { Server } from 'node:http';

/** What every contender is told by its environment. */
export const port = Number(process.env['PORT'] ?? '0');
export const databaseUrl = process.env['DATABASE_URL'] ?? '';
/** Connections to the database. */
export const poolMax = Number(process.env['DATABASE_POOL_MAX']);

/** The bench waits for this line. */
export const ready = (): void => console.log('READY');

export const listen = (server: Server): void => void server.listen(port, '127.0.0.1', ready);

process.once('SIGTERM', () => process.exit(0));
