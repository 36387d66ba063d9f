/* How IDs are allocated, for the model checker spin: can an ID be answered twice?
 *
 * Every interleaving of the steps below is tried: of one or two services, each with its memory and
 * its fence file, on one counter of one database, while sessions are lost, COMMITs stay ambiguous,
 * services are killed at any step or stopped, and the database goes back. The one claim is the
 * assertion in answer(): no ID is answered twice. test_model.py checks it in every combination that
 * docs/guarantees.md has a word on. By hand:
 *
 *     spin -DREPLICAS=1 -DGUARD=1 -DFENCE=1 -DCRASH=1 -DROLLBACK=3 -a allocation.pml
 *     gcc -O2 -DSAFETY -o pan pan.c
 *     ./pan -E -m1000000            # -E: that a counter is used up is no error
 *     spin -t -p -DREPLICAS=1 ...   # the steps that lead to a duplicate, where pan has found one
 *
 *     REPLICAS  how many services use the database: 1 or 2
 *     GUARD     whether a process remembers the lowest ID that it may still hand out
 *     FENCE     whether a file beside it does
 *     CRASH     whether services are killed, at any step, and stopped, between two; they are started
 *               again. With 0 they run on.
 *     ROLLBACK  when the database goes back: 0 never, 1 while a service runs, 2 while none does, 3 at
 *               any time
 *
 * Mistakes which the model must find, each by a name that is defined:
 *
 *     BLIND_UPDATE   the UPDATE does not carry the value that was read
 *     ANSWER_FIRST   the fence is written after the answers
 *     FENCE_EXACT    after a crash the fence is taken for exact
 *
 * What it leaves out. Counters share nothing but the transaction: there is one. It ends at 6, or at 3
 * with two services; the window is 2, or 1; batches have one or two requests for one ID each, so that
 * a batch can lie before a bound, on it and behind it. One session is lost, one COMMIT, two processes
 * are killed, or one of two; the database goes back once, to any value that it had. The row's lock
 * (SELECT ... FOR UPDATE, BEGIN IMMEDIATE) is modelled; that the database keeps it, and what it has
 * committed, is its own promise. A batch that is tried again may have another size. The UPDATE of a
 * counter that was not read, since the process knows where it left it, does what reading it and
 * updating it at once would do, or nothing, and so does one that commits by itself, in whichever
 * thread whose turn it is: they are no cases of their own. rename(2) is one step. There is
 * no time: who waits for an answer is in the batch.
 */

#ifndef REPLICAS
#define REPLICAS 1
#endif
#ifndef GUARD
#define GUARD 1
#endif
#ifndef FENCE
#define FENCE 0
#endif
#ifndef CRASH
#define CRASH 1
#endif
#ifndef ROLLBACK
#define ROLLBACK 0
#endif
#if REPLICAS == 1
#define MAX 6
#define WINDOW 2
#define CRASHES 2 * CRASH
#else
#define MAX 3
#define WINDOW 1
#define CRASHES CRASH
#endif
#define FREE 255
#define AHEAD (next + WINDOW > MAX + 1 -> MAX + 1 : next + WINDOW)

byte db = 1;                /* the counter on the database's disk: the next ID */
byte holder = FREE;         /* the replica whose session has the row locked */
bool session[REPLICAS];     /* whether the session of its transaction still stands */
bool up[REPLICAS];
bool kill[REPLICAS];        /* to be killed before its next step */
byte lost = 1;              /* COMMITs whose answer does not arrive */
bool given[MAX + 1];        /* the IDs that were answered */
#if FENCE
byte bound[REPLICAS] = 1;   /* the fence files */
#ifdef FENCE_EXACT
byte exact[REPLICAS] = 1;
#define WRITE(at, to) bound[me] = to; exact[me] = at
#else
/* What the file says beside the bound decides about an alarm, and about nothing else. */
#define WRITE(at, to) bound[me] = to
#endif
#endif

inline answer(id) {
    assert(!given[id]);
    given[id] = true
}

inline commit() {
    db = next;
    holder = FREE;
    session[me] = false
}

inline abandon() {
    if
    :: holder == me -> holder = FREE
    :: else
    fi;
    session[me] = false
}

proctype replica(byte me) {
    byte floor = 1, found, first, next;

    do
    ::
        d_step {
            up[me] = true;
            floor = 1;
#if FENCE
#ifdef FENCE_EXACT
            floor = exact[me];
#else
            floor = bound[me];
#endif
#endif
            skip
        };
        {
            do
            ::  /* Requests have arrived while the last transaction was under way. */
transaction:
                atomic {
                    holder == FREE ->
                    /* BEGIN, SELECT ... FOR UPDATE */
                    holder = me;
                    session[me] = true;
                    found = db;
                    first = (found > floor -> found : floor);
                    if
                    :: first + 1 <= MAX + 1 -> next = first + 1
                    :: first + 2 <= MAX + 1 -> next = first + 2
                    :: next = first     /* a counter below its floor is raised, for nobody */
                    fi
                };
                /* UPDATE */
                atomic {
                    if
                    :: session[me]
                    :: !session[me] && holder == FREE ->
                        /* Pony has made a new session in the middle of the transaction. */
                        holder = me;
                        session[me] = true;
#ifndef BLIND_UPDATE
                        if
                        :: db != found -> abandon(); goto transaction
                        :: else
                        fi
#endif
                    fi
                };
                /* COMMIT */
                atomic {
                    if
                    :: !session[me] -> goto transaction
                    :: session[me] -> commit()
                    :: session[me] && lost > 0 ->
                        /* done, and nobody was told */
                        lost--; commit(); goto transaction
                    :: session[me] && lost > 0 ->
                        lost--; abandon(); goto transaction
                    fi
                };
#if FENCE
#ifndef ANSWER_FIRST
                if
                :: next > bound[me] ->
                    if
                    :: d_step { WRITE(next, AHEAD) }
                    :: goto failed      /* the disk is full */
                    fi
                :: else
                fi;
#endif
#endif
#if GUARD
                floor = (floor < next -> next : floor);
#endif
                found = 0;
                do
                :: first < next -> d_step { answer(first); first++ }
                :: else -> break
                od;
                skip;
#if FENCE
#ifdef ANSWER_FIRST
                d_step {
                    if
                    :: next > bound[me] -> WRITE(next, AHEAD)
                    :: else
                    fi
                };
#endif
failed:
#endif
                skip;
                /* What is over is forgotten: fewer states. */
                d_step { found = 0; first = 0; next = 0 }
#if CRASH
            ::  /* A clean stop, between two transactions. */
                break
#endif
            od;
#if FENCE && CRASH
            /* Killed before this, or with a full disk, the bound stays where it was. */
            if
            :: d_step { WRITE(floor, floor) }
            :: skip
            fi;
#endif
            skip
        } unless {
            kill[me]
        };
        d_step {
            abandon();
            kill[me] = false;
            up[me] = false;
            floor = 1; found = 0; first = 0; next = 0
        }
    od
}

#if REPLICAS == 1
#define RUNNING up[0]
#else
#define RUNNING (up[0] || up[1])
#endif

init {
    atomic {
        run replica(0);
#if REPLICAS > 1
        run replica(1);
#endif
        run faults()
    }
}

proctype faults() {
    byte crashes = CRASHES, sessions = 1, back = 1, value;

    do
    :: sessions > 0 ->
        /* A session is killed, or its connection lost; the database takes its work back. */
        d_step {
            sessions--;
            if
            :: holder != FREE -> session[holder] = false; holder = FREE
            :: else
            fi
        }
    :: crashes > 0 && up[0] && !kill[0] -> atomic { crashes--; kill[0] = true }
#if REPLICAS > 1
    :: crashes > 0 && up[1] && !kill[1] -> atomic { crashes--; kill[1] = true }
#endif
    :: back > 0 && ((ROLLBACK == 1 && RUNNING) || (ROLLBACK == 2 && !RUNNING) || ROLLBACK == 3) ->
        atomic {
            back--;
            /* A failover or a restore: every session is gone. */
            if
            :: holder != FREE -> session[holder] = false; holder = FREE
            :: else
            fi;
            value = 1;
            do
            :: value < db -> value++
            :: break
            od;
            db = value;
            value = 0
        }
    od
}
