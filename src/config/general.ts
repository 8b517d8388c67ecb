import path from 'node:path';
import { folder, listOf, oneOf, optional, setting } from './kit.ts';

const roleNames = ['api', 'worker'] as const;
const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

export const general = {
  NODE_ENV: setting({
    group: 'General',
    description: 'Strictness and defaults: development, test or production.',
    default: 'development',
    example: 'production',
    schema: oneOf(['development', 'test', 'production']),
  }),
  SWITCHYARD_ROLES: setting({
    group: 'General',
    description: 'What this process does, comma-separated: api answers HTTP and WebSocket, worker executes runs.',
    default: 'api,worker',
    example: 'worker',
    schema: listOf(roleNames),
  }),
  SWITCHYARD_STATE_DIR: setting({
    group: 'General',
    description:
      'Folder of this host’s own state, for the server’s user only: host id, generated secrets, embedded database, files. Created if it is not there.',
    default: {
      words:
        '$XDG_STATE_HOME/switchyard; else, as root, /var/lib/switchyard; on macOS ~/Library/Application Support/switchyard; else ~/.local/state/switchyard',
      of: ({ env, machine }) => {
        const stateHome = env.get('XDG_STATE_HOME');
        // The XDG specification has relative paths ignored.
        if (stateHome && path.isAbsolute(stateHome)) return path.join(stateHome, 'switchyard');
        if (machine.uid === 0) return '/var/lib/switchyard';
        const home = env.get('HOME') ?? machine.home;
        return machine.platform === 'darwin'
          ? path.join(home, 'Library', 'Application Support', 'switchyard')
          : path.join(home, '.local', 'state', 'switchyard');
      },
    },
    example: '/srv/switchyard',
    schema: folder,
  }),
  SWITCHYARD_SHARED_DIR: optional({
    group: 'General',
    description:
      'Folder for what other users of this host must reach: as root, the database server and deployed applications run as somebody else. Must then be root’s own.',
    default: { words: 'in or beside the state folder', of: () => undefined },
    example: '/srv/switchyard.shared',
    schema: folder,
  }),
  LOG_LEVEL: setting({
    group: 'General',
    description: `Least level that is logged: ${logLevels.join(', ')}.`,
    default: 'info',
    example: 'debug',
    schema: oneOf(logLevels),
  }),
} as const;
