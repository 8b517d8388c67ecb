import { InstanceUnavailable } from './errors.ts';

/**
 * A text as one word of a POSIX shell, whatever it holds.
 * @throws TypeError for NUL, which no word can hold
 * @see https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_02_02
 */
export function quoted(text: string): string {
  if (text.includes('\0')) throw new TypeError('A word of a shell cannot hold NUL.');
  // SSM puts a value of its parameter store in the place of {{ssm:…}}, wherever it stands: no two braces are neighbours.
  return `'${text.replaceAll("'", `'\\''`).replaceAll(/\{(?=\{)/g, "{''")}'`;
}

/** A request to the engine of an instance, with an answer that is fetched in parts. */
export interface Ask {
  /** A UUID: it names the request's folder there. */
  readonly id: string;
  readonly method: string;
  readonly socketPath: string;
  /** Path and query; with a body it is the first line of what is fetched. */
  readonly path: string | null;
  readonly contentType: string;
  /** Where path and body are, and their SHA-256. */
  readonly body: { readonly url: string; readonly sha256: string } | null;
  /** It ends itself when nobody asks for it for so long, and again for so long at most, seconds. */
  readonly abandonedS: number;
}

export interface Part {
  /** From which byte of the answer on. */
  readonly offset: number;
  /** Where it is to be put. */
  readonly url: string;
  /** Longest wait for the answer's end, tenths of a second. */
  readonly waitTenths: number;
}

/** Bytes of an answer that come at once. */
export const partBytes = 8 * 2 ** 20;
/** Longest answer: what nobody fetches must not fill the instance's disk. In blocks of 512 bytes, for `ulimit`. */
const maxAnswerBlocks = 2 ** 20;

export const exits = { fetch: 91, digest: 92 } as const;
export const programs = ['curl', 'head', 'mkdir', 'mv', 'rm', 'rmdir', 'sed', 'setsid', 'sha256sum', 'sleep', 'tail', 'wc', 'base64', 'tr', 'cat']; // prettier-ignore

const folderOf = (id: string): string => {
  if (!/^[0-9a-f-]{36}$/.test(id)) throw new TypeError('This is no id of a request.');
  return `/var/tmp/switchyard.${id}`;
};

/**
 * What makes one request there, apart from the command that begins it: a command must not last, since the agent executes
 * few at a time. It keeps the answer in files until it was taken, and ends itself when nobody comes for it.
 */
const runner = `
d=$1 method=$2 socket=$3 path=$4 type=$5 sum=$6 abandoned=$7
cd "$d" || exit 1
over() { echo "$1" > ending; mv ending done; wait; exit 0; }
watch() {
  while sleep "$abandoned"; do
    rm seen 2> /dev/null || { rm -rf "$d"; kill -s KILL -- "-$leader"; }
  done
}
leader=$$
: > seen
watch &
set --
if [ -n "$sum" ]; then
  curl -q -sS -f --retry 2 --max-time 900 -o ask -K from 2> why || over ${exits.fetch}
  rm from
  [ "$(sha256sum < ask)" = "$sum  -" ] || over ${exits.digest}
  exec 3< ask
  rm ask
  IFS= read -r path <&3
  set -- -T -
else
  exec 3< /dev/null
fi
# A command line can be read by everybody there.
printf 'url = "http://engine%s"\\n' "$path" > url
ulimit -f ${maxAnswerBlocks}
curl -q -sS -N -g --path-as-is --noproxy '*' --unix-socket "$socket" -X "$method" -H "Content-Type: $type" -H 'Expect:' \\
  -D head -o body "$@" -K url <&3 2> why
over $?
`;

/** Begins a request and gives the first part of its answer. A second time, it only gives that part. */
export function beginning(ask: Ask, part: Part, over: readonly string[]): string {
  const { id, method, socketPath, path, contentType, body, abandonedS } = ask;
  const given = [method, socketPath, path ?? '', contentType, body?.sha256 ?? '', String(abandonedS)]
    .map(quoted)
    .join(' ');
  return `${preamble(id)}
${over.length > 0 ? `rmdir ${over.map(folderOf).join(' ')} 2> /dev/null` : ':'}
if mkdir "$d" 2> /dev/null; then
  ${body ? `printf 'url = "%s"\\n' ${quoted(forCurl(body.url))} > "$d/from"` : ':'}
  setsid sh -c ${quoted(runner)} switchyard "$d" ${given} < /dev/null > /dev/null 2>&1 &
  echo $! > "$d/pid"
fi
${taking(part)}`;
}

/** Gives a part of an answer. */
export function reading(id: string, part: Part): string {
  return `${preamble(id)}
${taking(part)}`;
}

/** Ends a request with all that it started there. It may not have begun, and does not any more. */
export function ending(id: string): string {
  return `${preamble(id)}
mkdir "$d" 2> /dev/null || finish`;
}

/** What of the programs is not there, a line each; and folders of requests that a restart of the instance left are removed. */
export function looking(socketPath: string): string {
  return `for program in ${programs.join(' ')}; do command -v "$program" > /dev/null || echo "$program"; done
[ -S ${quoted(socketPath)} ] || echo socket
for one in /var/tmp/switchyard.*; do
  [ -d "$one" ] || continue
  rmdir "$one" 2> /dev/null && continue
  pid=$(cat "$one/pid" 2> /dev/null) && ! kill -0 "$pid" 2> /dev/null && rm -rf "$one"
done
true`;
}

const preamble = (id: string): string => `umask 077
d=${folderOf(id)}
finish() {
  pid=$(cat "$d/pid" 2> /dev/null) && kill -s KILL -- "-$pid" 2> /dev/null
  rm -rf "$d"/* 2> /dev/null
  true
}`;

/** The folder stays, empty, when all was taken: a command may arrive twice. */
const taking = ({ offset, url, waitTenths }: Part): string => `tenths=0
while [ ! -e "$d/done" ] && [ "$tenths" -lt ${waitTenths} ]; do
  sleep 0.1
  [ -e "$d/pid" ] || break
  tenths=$((tenths + 1))
done
[ -e "$d/pid" ] || { echo 'switchyard gone'; exit 0; }
: > "$d/seen"
over=$(cat "$d/done" 2> /dev/null || echo -)
size=0
[ ! -e "$d/body" ] || size=$(wc -c < "$d/body")
status=$(sed -n '1s/^HTTP[^ ]* \\([0-9]*\\).*/\\1/p' "$d/head" 2> /dev/null)
new=$((size - ${offset}))
[ "$new" -le ${partBytes} ] || new=${partBytes}
if [ "$new" -gt 0 ]; then
  tail -c +${offset + 1} "$d/body" | head -c "$new" > "$d/part"
  printf 'url = "%s"\\n' ${quoted(forCurl(url))} > "$d/to"
  curl -q -sS -f --retry 2 --max-time 60 -o /dev/null -T "$d/part" -K "$d/to" 2> "$d/why" || over=put new=0
fi
why=
case $over in - | 0) ;; *) why=$(head -c 600 "$d/why" 2> /dev/null | base64 | tr -d '\\n') ;; esac
echo "switchyard $over \${status:--} $((new)) $((size)) $why"
case $over in - | put) ;; *) [ $((${offset} + new)) -lt $((size)) ] || finish ;; esac`;

/** A URL for a file of curl's options: it reads \\ and " in it. */
function forCurl(url: string): string {
  if (/["\\\s]/.test(url)) throw new TypeError('This URL is not encoded.');
  return url;
}

/** What a part told of the answer; null: its files are gone. */
export interface Told {
  /** Exit of curl; null: the answer goes on. */
  readonly over: number | null;
  /** Why the part could not be put; null: it was. */
  readonly notPut: boolean;
  /** Status of HTTP; null: not known yet. */
  readonly status: number | null;
  /** Bytes of this part. */
  readonly bytes: number;
  /** Bytes of the whole answer by now. */
  readonly size: number;
  /** Why it ended, where it failed. */
  readonly why: string;
}

/** @throws {InstanceUnavailable} when it is not what these scripts write: something else was executed, or it was cut */
export function toldBy(output: string): Told | null {
  const line = output.split('\n').findLast((one) => one.startsWith('switchyard '));
  if (line === 'switchyard gone') return null;
  const fields = /^switchyard (-|put|\d{1,3}) (-|\d{3}) (\d{1,15}) (\d{1,15}) ([A-Za-z0-9+/=]*)$/.exec(line ?? '');
  if (!fields) throw new InstanceUnavailable('the instance answered something else than it was asked for');
  const [, over = '', status = '', bytes, size, why = ''] = fields;
  return {
    over: /^\d/.test(over) ? Number(over) : null,
    notPut: over === 'put',
    status: status === '-' ? null : Number(status),
    bytes: Number(bytes),
    size: Number(size),
    why: Buffer.from(why, 'base64').toString('utf8').trim(),
  };
}
