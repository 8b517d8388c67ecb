import { DatabaseSync } from 'node:sqlite';

/**
 * Takes an exclusive lock on `file` (made if missing), or answers undefined when another process, or another part of
 * this one, has it. The operating system ends the lock with the process, `kill -9` included: an empty SQLite database
 * is the one way to such a lock that Node has without native modules.
 * @returns ends the lock
 * @see https://www.sqlite.org/lockingv3.html
 */
export function tryLock(file: string): (() => void) | undefined {
  const database = new DatabaseSync(file, { timeout: 0 });
  try {
    database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
    return () => database.close();
  } catch (error) {
    database.close();
    if (error instanceof Error && 'errcode' in error && error.errcode === 5) return undefined;
    throw error;
  }
}
